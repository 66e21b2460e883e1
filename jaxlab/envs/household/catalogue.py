"""What household things are: where each may lie and what may be done to it.

The facts are those of ALFRED (Shridhar et al. 2020), as ALFWorld's generator has them. Boxes and
dishes can hold things themselves, but no command of the game puts anything into them.
"""

_SMALL = "CD CellPhone CreditCard KeyChain"
_PAPER = "TissueBox ToiletPaper ToiletPaperRoll"
_BOTTLES = "SoapBar SoapBottle SprayBottle"
_SEAT = (
    "BasketBall Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
)
_CUTLERY = "ButterKnife Fork Knife Ladle Spatula Spoon"
_FOOD = "Apple Egg Lettuce Potato Tomato"
_DISHES = "Bowl Cup Mug Pan Plate Pot"
_DRESSER = (
    f"{_SMALL} {_PAPER} AlarmClock BasketBall Book Bowl Box Candle Cloth Cup Glassbottle Laptop "
    "Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket Vase Watch "
    "WateringCan WineBottle"
)
_SHELF = (
    f"{_SMALL} {_PAPER} {_BOTTLES} AlarmClock Book Bowl Box Candle Cloth Cup DishSponge "
    "Glassbottle HandTowel Kettle Mug Newspaper PaperTowel Pen Pencil PepperShaker Plate Pot "
    "RemoteControl SaltShaker Statue Vase Watch WateringCan WineBottle"
)
_TABLE = f"{_SHELF} {_CUTLERY} {_FOOD} BaseballBat BasketBall Bread Laptop Pan TennisRacket"

# Type of receptacle -> the types of things that may lie in or on it.
CONTENTS = {
    receptacle: frozenset(things.split())
    for receptacle, things in {
        "ArmChair": _SEAT,
        "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
        "Bed": "BaseballBat BasketBall Book CellPhone Laptop Newspaper Pillow TennisRacket",
        "Cabinet": f"{_PAPER} {_BOTTLES} Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle "
        "HandTowel Kettle Ladle Mug Newspaper Pan PepperShaker Plate Plunger Pot SaltShaker Vase "
        "WateringCan WineBottle",
        "Cart": f"{_PAPER} {_BOTTLES} Candle Cloth DishSponge HandTowel Mug PaperTowel Plunger "
        "Statue Vase",
        "CoffeeMachine": "Mug",
        "CoffeeTable": _TABLE,
        "CounterTop": _TABLE,
        "Desk": f"{_DRESSER} SoapBottle",
        "DiningTable": _TABLE,
        "Drawer": f"{_SMALL} {_PAPER} {_BOTTLES} {_CUTLERY} Book Candle Cloth DishSponge HandTowel "
        "Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker Watch WateringCan",
        "Dresser": _DRESSER,
        "Fridge": f"{_FOOD} {_DISHES} Bread Glassbottle WineBottle",
        "GarbageCan": f"{_FOOD} {_PAPER} {_BOTTLES} Bread CD Cloth DishSponge HandTowel Newspaper "
        "PaperTowel Pen Pencil WineBottle",
        "HandTowelHolder": "HandTowel",
        "LaundryHamper": "Cloth",
        "Microwave": "Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato",
        "Ottoman": _SEAT,
        "Safe": f"{_SMALL} Statue Vase Watch",
        "Shelf": _SHELF,
        "SideTable": _TABLE,
        "SinkBasin": f"{_CUTLERY} {_FOOD} {_DISHES} Cloth DishSponge Glassbottle HandTowel Kettle "
        "SoapBar",
        "Sofa": _SEAT,
        "StoveBurner": "Kettle Pan Pot",
        "TVStand": "TissueBox",
        "Toaster": "",
        "Toilet": f"{_PAPER} {_BOTTLES} Candle Cloth DishSponge HandTowel Newspaper PaperTowel",
        "ToiletPaperHanger": "ToiletPaper ToiletPaperRoll",
        "TowelHolder": "Towel",
    }.items()
}
THINGS = frozenset().union(*CONTENTS.values())
OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
HOLLOW = frozenset((*_DISHES.split(), "Box"))
SLICEABLE = frozenset((*_FOOD.split(), "Bread"))
HEATABLE = frozenset({"Apple", "Bread", "Cup", "Egg", "Mug", "Plate", "Potato", "Tomato"})
COOLABLE = frozenset((*_FOOD.split(), *_DISHES.split(), "Bread", "WineBottle"))
CLEANABLE = frozenset(f"{_FOOD} {_DISHES} {_CUTLERY} Cloth DishSponge Kettle SoapBar".split())
LAMP = "DeskLamp"
# Where a lamp stands.
LAMP_PLACES = ("Desk", "SideTable", "Dresser", "CoffeeTable", "DiningTable", "Shelf")
# Kind of room -> first and last number of its floor plans.
ROOMS = {
    "kitchen": (1, 30),
    "living room": (201, 230),
    "bedroom": (301, 330),
    "bathroom": (401, 430),
}
