"""How attention layers cache while decoding, by name: options of sampling."""

from jaxlab.sampling.caches.dense import Dense as Dense
