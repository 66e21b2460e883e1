"""WebShop's pages and actions (Yao et al. 2022), without its web server.

Actions are `search[words]` and `click[text]`; whatever else, and what is not on the page, does
nothing and shows the same page again. Texts are those of WebShop's text mode, with its separator.
"""

from typing import Literal

from jaxlab.envs.protocol import Step
from jaxlab.envs.webshop.products import Product
from jaxlab.envs.webshop.reward import Goal, Score, score
from jaxlab.envs.webshop.shop import PAGE, Shop

SEARCH = "search[<query>]"
_SEP = " [SEP] "
_NEXT, _PREV, _BACK, _BUY = "next >", "< prev", "back to search", "buy now"
_PARTS = ("description", "features", "reviews")

Place = Literal["search", "results", "item", "description", "features", "reviews"]


class WebShop:
    """One shopping trip at a time.

    Attributes:
        shop: where.
        goal: what for.
        max_steps: after so many actions an episode ends without reward; None: it does not.
        score: of the last purchase; None before there is one.
    """

    def __init__(self, shop: Shop, goal: Goal, max_steps: int | None = 15) -> None:
        self.shop, self.goal, self.max_steps = shop, goal, max_steps
        self.score: Score | None = None
        self._steps: int | None = None
        self._to_search()

    def reset(self) -> Step:
        """Begin on the search page."""
        self._steps, self.score = 0, None
        self._to_search()
        return self._seen()

    def step(self, action: str, /) -> Step:
        """Act once.

        A search works from every page. "buy now" ends the episode with the purchase's reward.

        Raises:
            RuntimeError: if the episode is over or has not begun.
        """
        if self._steps is None:
            raise RuntimeError("the episode is over, or was never begun: call reset() first")
        self._steps += 1
        name, argument = parse(action)
        if name == "click" and argument == _BUY and self._place == "item":
            return self._bought()
        if name == "search" and argument:
            self._to_results(argument, 1)
        elif name == "click":
            self._click(argument)
        seen = self._seen()
        if self._steps == self.max_steps:
            self._steps = None
            return Step(seen.text, done=True, admissible=seen.admissible)
        return seen

    def _to_search(self) -> None:
        self._place: Place = "search"
        self._query, self._page = "", 1
        self._found: tuple[Product, ...] = ()
        self._leave_item()

    def _leave_item(self) -> None:
        self._item: Product | None = None
        self._chosen: dict[str, str] = {}

    def _to_results(self, query: str, page: int) -> None:
        self._place, self._query, self._page = "results", query, page
        self._found = self.shop.search(query)
        self._leave_item()

    def _click(self, text: str) -> None:
        if text not in self._buttons():
            return
        if text == _BACK:
            self._to_search()
        elif self._item is None:
            turn = {_NEXT: 1, _PREV: -1}.get(text)
            if turn is not None:
                self._page += turn
            else:
                self._place, self._item = "item", self.shop.by_asin[text.upper()]
        elif text == _PREV:
            if self._place == "item":
                self._to_results(self._query, self._page)
            else:
                self._place = "item"
        elif text in _PARTS:
            self._place = text  # type: ignore[assignment]
        else:
            # Of several options with this value the last one counts, as in WebShop.
            name = [n for n, values in self._item.options.items() if text in values][-1]
            self._chosen[name] = text

    def _shown(self) -> tuple[Product, ...]:
        return self._found[(self._page - 1) * PAGE : self._page * PAGE]

    def _buttons(self) -> tuple[str, ...]:
        """What can be clicked, in the order of the page."""
        if self._place == "search":
            return ()
        if self._place == "results":
            turns = (_PREV,) * (self._page > 1)
            turns += (_NEXT,) * (self._page * PAGE < len(self._found))
            return (_BACK, *turns, *(product.asin.lower() for product in self._shown()))
        if self._place != "item" or self._item is None:
            return (_BACK, _PREV)
        values = (value for values in self._item.options.values() for value in values)
        return tuple(dict.fromkeys((_BACK, _PREV, *values, *_PARTS, _BUY)))

    def _seen(self) -> Step:
        clicks = (f"click[{text}]" for text in self._buttons())
        return Step(_SEP.join(self._texts()), admissible=(SEARCH, *clicks))

    def _texts(self) -> list[str]:
        task = ["Instruction:", self.goal.instruction]
        item = self._item
        if self._place == "search":
            return ["WebShop", *task, "Search"]
        task.append("Back to Search")
        if item is None:
            task.append(f"Page {self._page} (Total results: {len(self._found)})")
            task += ["< Prev"] * (self._page > 1)
            task += ["Next >"] * (self._page * PAGE < len(self._found))
            for product in self._shown():
                task += [product.asin, product.title, product.price_tag]
            return task
        task.append("< Prev")
        if self._place == "item":
            for name, values in item.options.items():
                task += [name, *values]
            told = [item.title, f"Price: {item.price_tag}", f"Rating: {item.rating}"]
            return [*task, *told, "Description", "Features", "Reviews", "Buy Now"]
        if self._place == "description":
            return [*task, item.description]
        return [*task, *(item.bullets if self._place == "features" else item.reviews)]

    def _bought(self) -> Step:
        assert self._item is not None
        self.score = score(self._item, self._chosen.values(), self.goal)
        self._steps = None
        texts = ["Thank you for shopping with us!", "Purchased", self._item.asin]
        texts += [f"{name}: {value}" for name, value in self._chosen.items()]
        texts += ["Your score (min 0.0, max 1.0)", f"{self.score.reward:.4g}"]
        return Step(_SEP.join(texts), self.score.reward, done=True)


def parse(action: str) -> tuple[str, str]:
    """Name and argument of an action, the latter in lower case; ("", "") where it is none."""
    name, bracket, rest = action.strip().partition("[")
    argument, closed, _ = rest.rpartition("]")
    if not bracket or not closed:
        return "", ""
    return name, argument.strip().lower()
