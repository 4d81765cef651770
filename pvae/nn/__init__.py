"""Fully connected and convolutional networks for encoders and decoders; no Pyro."""

from pvae.nn.convolutional import ConvDecoder, ConvEncoder
from pvae.nn.flatten import Flatten
from pvae.nn.fully_connected import MLP, HiddenLayers
from pvae.nn.networks import decoder, encoder
from pvae.nn.scales import positive

__all__ = [
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Flatten",
    "HiddenLayers",
    "decoder",
    "encoder",
    "positive",
]
