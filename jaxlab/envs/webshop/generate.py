"""Made-up catalogues of any size, and the fixed panel of goals on which results are compared."""

import functools
import hashlib
import random

from jaxlab.envs.webshop import goals
from jaxlab.envs.webshop.products import Product, ShopError, digest
from jaxlab.envs.webshop.reward import Goal
from jaxlab.envs.webshop.shop import Shop
from jaxlab.envs.webshop.words import BRANDS, KINDS, OPTION_VALUES, STYLES

# Goals of the panel, products of its shop, and its digest.
PANEL, PRODUCTS = 200, 1000
PANEL_DIGEST = "2bacde2f7cc71e6e24219bd17837858d9003b0518bb2b73841b170a49f22da45"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CATEGORIES = tuple(KINDS)


def product(index: int, seed: int = 0) -> Product:
    """Product `index` of a catalogue: a pure function of its arguments, on every machine.

    Raises:
        ShopError: a negative index, or one that a product number cannot hold.
    """
    if not 0 <= index < 36**8:
        raise ShopError(f"product {index}: numbers go from 0 to 36^8 - 1")
    rng = random.Random(f"webshop {seed} {index}")
    category = rng.choice(_CATEGORIES)
    kind = rng.choice(KINDS[category])
    attributes = tuple(rng.sample(kind.attributes, rng.randint(2, 5)))
    options = {name: _values(name, rng) for name in kind.options if rng.random() < 0.85}
    brand, style = rng.choice(BRANDS), rng.choice(STYLES)
    told, silent = attributes[:2], attributes[2:]
    title = f"{brand} {style.title()} {kind.name.title()}, {told[0].title()}"
    title += f", {brand[:2].upper()}{rng.randint(100, 999)}"
    low, high = kind.prices
    cents = rng.randint(int(low * 100), int(high * 100))
    bullets = [f"{a.capitalize()}: {rng.choice(_PRAISES)}" for a in (told[1], *silent[:1])]
    bullets.append(f"{brand}'s own {style} {kind.name}")
    description = f"{style.capitalize()} {kind.name}: {', '.join(silent) or told[0]}. "
    description += f"Made by {brand} for {rng.choice(_FOR)}."
    return Product(
        asin=_asin(index, seed),
        query=kind.name,
        product_category=" › ".join((*kind.path, kind.name.title())),
        title=title,
        price=cents / 100,
        price_tag=f"${cents / 100}",
        description=description,
        bullets=tuple(bullets),
        options=options,
        attributes=attributes,
        category=category,
        rating=f"{rng.randint(25, 50) / 10}",
        reviews=(f"{rng.choice(_SAID)}.",),
    )


_FOR = ("home and travel", "daily use", "gifts", "beginners and experts", "small spaces")
_SAID = ("I like it", "Good value", "It was late, but fine", "Not what I expected", "Buy it")
_PRAISES = ("made to last", "tested twice", "you will notice it", "as it should be")


def _values(name: str, rng: random.Random) -> tuple[str, ...]:
    values = OPTION_VALUES[name]
    kept = set(rng.sample(range(len(values)), rng.randint(2, min(6, len(values)))))
    return tuple(value for i, value in enumerate(values) if i in kept)


def _asin(index: int, seed: int) -> str:
    # The factor has no divisor in common with 36, so that no two products share a number.
    left = (index * 1_000_003_397 + seed * 7919) % 36**8
    digits = ""
    for _ in range(8):
        left, digit = divmod(left, 36)
        digits += _DIGITS[digit]
    return f"B0{digits}"


def catalogue(size: int, seed: int = 0) -> tuple[Product, ...]:
    """The first `size` products of a catalogue."""
    return tuple(product(index, seed) for index in range(size))


@functools.lru_cache(maxsize=4)
def shop(size: int = PRODUCTS, seed: int = 0) -> Shop:
    """A shop of made-up products; the last few are kept."""
    return Shop(catalogue(size, seed))


def digest_of(found: Shop, wanted: tuple[Goal, ...]) -> str:
    """sha256 of goals in their order, and of the products among which they are looked for."""
    lines = (repr(goal) + "\n" for goal in wanted)
    told = digest(found.products) + "\n" + "".join(lines)
    return hashlib.sha256(told.encode()).hexdigest()


@functools.lru_cache(maxsize=4)
def _order(found: Shop) -> list[Product]:
    return sorted(found.products, key=lambda p: hashlib.sha256(p.asin.encode()).digest())


def panel(found: Shop) -> tuple[Goal, ...]:
    """200 goals of a shop of made-up products, fewer where it has fewer: one goal to a product.

    They are of the products whose numbers have the least hashes.

    Raises:
        ShopError: they are of the shop of `shop()` and not what this version of jaxlab means.
    """
    wanted = tuple(goals.made(p) for p in _order(found)[:PANEL])
    if found is shop() and digest_of(found, wanted) != PANEL_DIGEST:
        raise ShopError(
            f"the panel has the digest {digest_of(found, wanted)}, not {PANEL_DIGEST}: "
            "another generator"
        )
    return wanted


def training(found: Shop, index: int) -> Goal:
    """Goal `index` of those to train on: none is of a product that the panel asks for.

    Raises:
        ShopError: the shop has no products beside the panel's, or the index is negative.
    """
    rest = _order(found)[PANEL:]
    if not rest or index < 0:
        raise ShopError(f"goal {index}: {len(rest)} products are left beside the panel's {PANEL}")
    turn, at = divmod(index, len(rest))
    return goals.made(rest[at], seed=1 + turn)
