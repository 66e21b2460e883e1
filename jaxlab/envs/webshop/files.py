"""WebShop's own files: products (items_shuffle*.json), what holds for them (items_ins_v2*.json),
and goals that people wrote (items_human_ins*.json)."""

import collections
import dataclasses
import json
import pathlib
import random
import re
from collections.abc import Mapping
from typing import Any

from jaxlab.envs.webshop.goals import price_limit, with_limit
from jaxlab.envs.webshop.products import Product, ShopError
from jaxlab.envs.webshop.reward import Goal, options_of

PRODUCTS, ATTRIBUTES, HUMAN = "items_shuffle*.json", "items_ins_v2*.json", "items_human_ins*.json"
# Goals 0 to 499 are WebShop's test set, in the order of its shuffle.
TEST, _SHUFFLE = 500, 233
_TEXTS = ("asin", "query", "product_category", "name", "full_description", "category")
_PRICE = re.compile(r"\d+(\.\d+)?")


@dataclasses.dataclass(frozen=True)
class Read:
    """What a folder of WebShop's files holds.

    Attributes:
        products: in the file's order.
        goals: in WebShop's shuffled order; the first 500 are its test set.
        left_out: why products and goals of the files are not here -> how many, as WebShop leaves
            them out.
    """

    products: tuple[Product, ...]
    goals: tuple[Goal, ...]
    left_out: dict[str, int]


def read(folder: str | pathlib.Path, most: int | None = None) -> Read:
    """Products and goals of a folder.

    Goals are people's where the folder has items_human_ins*.json, and otherwise WebShop's synthetic
    ones: one for each combination of options of a product that has an instruction. WebShop draws a
    price from a range, and a limit for a goal, without a seed; here both are drawn from the
    product's number.

    Args:
        folder: has one file of each kind; human goals may be absent.
        most: so many products from the beginning; None: all.

    Raises:
        ShopError: a file is missing, is there twice, is cut short or has other fields; naming file,
            row and field.
    """
    folder = pathlib.Path(folder)
    left_out: collections.Counter[str] = collections.Counter()
    path = _one(folder, PRODUCTS)
    told_path = _one(folder, ATTRIBUTES)
    told = _load(told_path, dict)
    human_path = _one(folder, HUMAN) if any(folder.glob(HUMAN)) else None
    human = None if human_path is None else _load(human_path, dict)
    products: dict[str, Product] = {}
    wanted: list[Goal] = []
    rows = _load(path, list)[:most]
    for i, row in enumerate(rows):
        where = f"{path}: row {i}"
        asin = str(_field(row, "asin", where, str))
        if asin == "nan" or len(asin) > 10 or not asin:
            left_out["products without a number of at most ten letters"] += 1
            continue
        if asin.upper() in products:
            left_out["products that are there twice"] += 1
            continue
        extra = told.get(asin, {})
        if not isinstance(extra, dict):
            raise ShopError(f"{told_path}: product {asin}: is no object")
        known = _phrases(extra, "attributes", f"{told_path}: product {asin}")
        product = _product(row, known or ("DUMMY_ATTR",), f"{where} ({asin})")
        products[product.asin] = product
        if human is not None:
            wanted += _human(product, human.get(asin, []), f"{human_path}: {asin}", left_out)
        else:
            wanted += _synthetic(product, extra, f"{told_path}: product {asin}")
    if not products:
        raise ShopError(f"{path}: has no products")
    random.Random(_SHUFFLE).shuffle(wanted)
    return Read(tuple(products.values()), tuple(wanted), dict(left_out))


def _one(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ShopError(f"{folder}: needs one file {pattern}, has {names}")
    return found[0]


def _load(path: pathlib.Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShopError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ShopError(f"{path}: is no JSON ({error}); is it cut short?") from None
    if not isinstance(data, kind):
        raise ShopError(f"{path}: holds a {type(data).__name__}, not a {kind.__name__}")
    return data


def _field(row: Any, name: str, where: str, *kinds: type) -> Any:
    if not isinstance(row, dict):
        raise ShopError(f"{where}: is {row!r:.60}, no object")
    if name not in row:
        raise ShopError(f"{where}: field {name!r} is missing; it has {', '.join(sorted(row))}")
    if not isinstance(row[name], kinds):
        raise ShopError(f"{where}: field {name!r} is {row[name]!r:.60}, no {kinds[0].__name__}")
    return row[name]


def _product(row: Any, attributes: tuple[str, ...], where: str) -> Product:
    text = {name: _field(row, name, where, str) for name in _TEXTS}
    bullets = _field(row, "small_description", where, list, str)
    bullets = [bullets] if isinstance(bullets, str) else bullets
    price, tag = _price(row.get("pricing"), text["asin"], where)
    return Product(
        asin=text["asin"].upper(),
        query=text["query"].lower().strip(),
        product_category=text["product_category"],
        title=text["name"],
        price=price,
        price_tag=tag,
        description=text["full_description"],
        bullets=tuple(str(bullet) for bullet in bullets),
        options=_options(row.get("customization_options"), where),
        attributes=attributes,
        category=text["category"],
    )


def _price(text: Any, asin: str, where: str) -> tuple[float, str]:
    """ "$12.99", or a range "$12.99$24.99"; nothing is 100 dollars, as in WebShop."""
    if not text:
        return 100.0, "$100.0"
    parts = text.split("$")[1:] if isinstance(text, str) else []
    clean = [re.sub(r"[^\d.]", "", part) for part in parts]
    if not clean or not all(_PRICE.fullmatch(part) for part in clean):
        raise ShopError(f"{where}: field 'pricing' is {text!r:.60}, no price such as $12.99")
    prices = [float(part) for part in clean[:2]]
    if len(prices) == 1:
        return prices[0], f"${prices[0]}"
    drawn = random.Random(f"webshop price {asin}").uniform(*prices)
    return drawn, f"${prices[0]} to ${prices[1]}"


def _options(options: Any, where: str) -> dict[str, tuple[str, ...]]:
    if not options:
        return {}
    if not isinstance(options, Mapping):
        raise ShopError(f"{where}: field 'customization_options' is {options!r:.60}, no object")
    found = {}
    for name, contents in options.items():
        if contents is None:
            continue
        at = f"{where}: option {name!r}"
        if not isinstance(contents, list):
            raise ShopError(f"{at} is {contents!r:.60}, no list")
        values = [str(_field(content, "value", at, str)) for content in contents]
        found[name.lower()] = tuple(v.strip().replace("/", " | ").lower() for v in values)
    return found


def _phrases(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    found = row.get(name)
    found = [] if found is None else found
    if not isinstance(found, list) or not all(isinstance(phrase, str) for phrase in found):
        raise ShopError(f"{where}: field {name!r} is {found!r:.60}, no list of texts")
    return tuple(found)


def _human(
    product: Product, rows: Any, where: str, left_out: collections.Counter[str]
) -> list[Goal]:
    if not isinstance(rows, list):
        raise ShopError(f"{where}: is no list of instructions")
    found = []
    for i, row in enumerate(rows):
        at = f"{where}: row {i}"
        instruction = _field(row, "instruction", at, str)
        attributes = _phrases(row, "instruction_attributes", at)
        options = _field(row, "instruction_options", at, list, dict)
        if not attributes:
            left_out["goals without attributes"] += 1
            continue
        found.append(_goal(product, instruction.strip("."), attributes, options_of(options), i))
    return found


def _synthetic(product: Product, row: Mapping[str, Any], where: str) -> list[Goal]:
    instruction = row.get("instruction")
    if instruction is None:
        return []
    if not isinstance(instruction, str):
        raise ShopError(f"{where}: field 'instruction' is {instruction!r:.60}, no str")
    attributes = _phrases(row, "instruction_attributes", where)
    if not attributes:
        raise ShopError(f"{where}: field 'instruction_attributes' is empty beside an instruction")
    combinations: list[dict[str, str]] = [{}]
    for name in sorted(product.options):
        values = product.options[name]
        combinations = [c | {name: value} for c in combinations for value in values]
    found = []
    for i, options in enumerate(combinations):
        told = ", and ".join(f"{name}: {value}" for name, value in options.items())
        text = f"{instruction} with {told}" if told else instruction
        found.append(_goal(product, text, attributes, options_of(options), i))
    return found


def _goal(
    product: Product, told: str, attributes: tuple[str, ...], options: tuple[str, ...], number: int
) -> Goal:
    limit = price_limit(product.price, random.Random(f"webshop limit {product.asin} {number}"))
    return Goal(
        instruction=with_limit(told, limit),
        asin=product.asin,
        query=product.query,
        product_category=product.product_category,
        title=product.title,
        attributes=attributes,
        options=options,
        price_limit=limit,
        id=f"{product.asin}-{number}",
    )
