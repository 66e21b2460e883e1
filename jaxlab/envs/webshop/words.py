"""The words of made-up products: kinds of things, what holds for them, and how they are sold."""

import dataclasses

# Name of an option -> values that products choose from, in lower case as WebShop keeps them.
OPTION_VALUES = {
    name: tuple(text.split("|"))
    for name, text in {
        "color": "black|white|red|navy blue|dark green|light gray|charcoal|ivory|burgundy|teal|"
        "olive|beige|rose gold|silver|brown|orange|purple|yellow|pink|khaki|coral",
        "size": "x-small|small|medium|large|x-large|xx-large|3x-large",
        "shoe size": "5|5.5|6|6.5|7|7.5|8|8.5|9|9.5|10|11|12",
        "scent": "lavender|citrus|unscented|coconut|rose|eucalyptus|vanilla|mint|sandalwood",
        "flavor name": "original|sea salt|barbecue|honey|dark chocolate|peanut butter|maple|lime|"
        "cinnamon|spicy chili|garlic herb|vanilla|strawberry",
        "volume": "1 ounce|2 ounce|4 ounce|8 ounce|16 ounce|32 ounce",
        "pack": "pack of 1|pack of 2|pack of 3|pack of 4|pack of 6|pack of 12",
        "capacity": "16gb|32gb|64gb|128gb|256gb|512gb",
        "length": "1.5 feet|3 feet|6 feet|10 feet|15 feet|25 feet",
        "dimensions": "16 x 16 inch|18 x 18 inch|20 x 20 inch|24 x 36 inch|40 x 60 inch|"
        "60 x 80 inch",
    }.items()
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of thing.

    Attributes:
        name: the noun; also what it is listed under.
        path: levels of the category above it.
        attributes: phrases that can hold.
        options: names in OPTION_VALUES.
        prices: the least and the greatest usual price, in dollars.
    """

    name: str
    path: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[str, ...]
    prices: tuple[float, float]


# Category -> (levels, phrases that its things have, kinds as "noun:options:least-greatest price").
_TREE = {
    "beauty": (
        ("Beauty & Personal Care", "Hair Care"),
        "sulfate free|paraben free|cruelty free|dry hair|damaged hair|tea tree|argan oil|"
        "hair growth|natural ingredients|color treated hair|long lasting|coconut oil",
        "shampoo:scent,volume:6-32|hair mask:scent,volume:8-40|styling cream:scent,volume:7-30|"
        "hair extension:color:15-120|hair dye:color,pack:8-30",
    ),
    "skin": (
        ("Beauty & Personal Care", "Skin Care"),
        "fragrance free|anti aging|hyaluronic acid|sensitive skin|dead skin|vitamin c|oil free|"
        "dermatologist tested|fine lines|dark circles|easy to use|alcohol free",
        "face serum:volume,pack:10-60|body lotion:scent,volume:6-35|lip balm:scent,pack:4-20|"
        "eye cream:volume:12-70|sunscreen:volume,pack:9-45",
    ),
    "electronics": (
        ("Electronics", "Computers & Accessories"),
        "high speed|plug and play|easy install|fast charging|high resolution|water resistant|"
        "noise cancelling|energy efficient|wireless bluetooth|usb port|quad core|heavy duty",
        "memory card:capacity:8-90|usb cable:color,length:5-30|tablet:color,capacity:60-480|"
        "laptop sleeve:color:12-45|microphone:color:25-180",
    ),
    "video": (
        ("Electronics", "Television & Video"),
        "ultra hd|wall mounted|1080p hd|easy carry|carrying case|aluminum alloy|gold plated|"
        "dual band|remote control|batteries included|motion detection|high definition",
        "projector:color:70-420|hdmi cable:length:6-40|soundbar:color:50-300|"
        "security camera:color,pack:30-220|tripod:color:15-110",
    ),
    "men": (
        ("Clothing, Shoes & Jewelry", "Men"),
        "machine wash|slim fit|long sleeve|moisture wicking|regular fit|cotton spandex|"
        "quick drying|drawstring closure|polyester cotton|loose fit|everyday wear|hand wash",
        "polo shirt:color,size:12-55|sweatpants:color,size:15-60|running shoes:color,shoe size:"
        "30-140|bomber jacket:color,size:35-160|swim trunks:color,size:12-45",
    ),
    "women": (
        ("Clothing, Shoes & Jewelry", "Women"),
        "high waist|elastic waistband|rubber sole|short sleeve|arch support|soft material|non slip|"
        "tummy control|lace closure|ankle strap|button closure|memory foam",
        "midi dress:color,size:18-90|leggings:color,size:12-50|ankle boots:color,shoe size:"
        "30-150|cardigan:color,size:16-70|flat sandals:color,shoe size:15-80",
    ),
    "garden": (
        ("Home & Kitchen", "Furniture"),
        "solid wood|space saving|easy assemble|storage space|mid century|steel frame|living room|"
        "faux leather|heavy duty|easy clean|metal legs|assembly required",
        "coffee table:color:60-380|ottoman bench:color,dimensions:40-190|bookcase:color:55-260|"
        "bar stool:color,pack:45-240|nightstand:color:35-170",
    ),
    "bedding": (
        ("Home & Kitchen", "Bedding"),
        "machine washable|super soft|double sided|queen size|king size|twin size|eco friendly|"
        "printing technology|exquisite workmanship|lead free|non toxic|stainless steel",
        "throw pillow:color,dimensions:9-40|fleece blanket:color,dimensions:15-80|"
        "duvet cover:color:25-110|bed skirt:color:14-60|wall tapestry:dimensions:11-50",
    ),
    "grocery": (
        ("Grocery & Gourmet Food", "Snacks & Sweets"),
        "gluten free|low sugar|keto friendly|non gmo|individually wrapped|high protein|plant based|"
        "dairy free|ready to eat|low carb|artificial colors|resealable bag",
        "trail mix:flavor name,pack:6-40|protein bar:flavor name,pack:10-45|crackers:flavor name,"
        "pack:4-28|beef jerky:flavor name,volume:7-38|dark chocolate bar:pack:5-36",
    ),
    "drinks": (
        ("Grocery & Gourmet Food", "Beverages"),
        "caffeine free|usda organic|zero sugar|fair trade|sugar free|shelf stable|natural flavors|"
        "easy to prepare|bpa free|soy free|quality ingredients|perfect gift",
        "green tea:flavor name,pack:5-32|ground coffee:volume,pack:9-48|almond milk:flavor name,"
        "pack:6-34|sparkling water:flavor name,pack:5-25|drink mix:flavor name,pack:7-30",
    ),
}


def _kinds() -> dict[str, tuple[Kind, ...]]:
    made = {}
    for category, (path, attributes, kinds) in _TREE.items():
        found = []
        for line in kinds.split("|"):
            name, options, prices = line.split(":")
            low, high = map(float, prices.split("-"))
            split = tuple(options.split(","))
            found.append(Kind(name, path, tuple(attributes.split("|")), split, (low, high)))
        made[category] = tuple(found)
    return made


KINDS = _kinds()
BRANDS = tuple(
    first + last
    for first in ("Al", "Bor", "Cel", "Dun", "Eri", "Fal", "Gol", "Hav", "Iso", "Kel", "Lum", "Nor")
    for last in ("bert", "dane", "ford", "gard", "lin", "mont", "nova", "ra", "sen", "vik")
)
STYLES = (
    *("classic", "premium", "modern", "everyday", "professional", "vintage", "deluxe", "compact"),
    *("essential", "outdoor", "travel", "signature", "luxury", "casual", "portable", "upgraded"),
)
# How people begin to say what they want.
OPENINGS = ("i am looking for", "i want to buy", "find me", "i would like", "i need", "show me")
