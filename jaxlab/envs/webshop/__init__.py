"""WebShop (Yao et al. 2022, arXiv 2207.01206): an agent searches a shop and buys what is asked for.

from jaxlab.envs import webshop
shop = webshop.generate.shop(1000)  # or webshop.Shop(webshop.files.read(FOLDER).products)
env = webshop.WebShop(shop, webshop.generate.panel(shop)[0])
seen = env.reset()  # seen.text, seen.admissible
step = env.step("search[gluten free crackers]")  # step.text, step.reward, step.done
"""

from jaxlab.envs.webshop import files, generate, goals, shoppers
from jaxlab.envs.webshop.play import SEARCH, WebShop
from jaxlab.envs.webshop.products import Product, ShopError
from jaxlab.envs.webshop.reward import Goal, Score, score
from jaxlab.envs.webshop.shop import Shop

__all__ = ["SEARCH", "Goal", "Product", "Score", "Shop", "ShopError", "WebShop", "score"]
__all__ += ["files", "generate", "goals", "shoppers"]
