"""Hyperdecoders: adapters that each input generates for itself (Ivison and Peters, 2022, arXiv 2203.08304).

- `settings`: the fields (no torch needed)
- `modules`: the paper's equations: the bottleneck adapter, and the generator of its weights
- `families`: which modules of a language model the adapters stand beside, in each family
- `passes`: what one forward pass of a stack generates adapters from, and the weights kept while it generates text
- `layer`: where the adapters enter an existing model, as PEFT layers
- `config`, `model`: the PEFT configuration and tuner
"""
