"""WebShop: a model searches a shop and buys, without a library of skills or with one."""
