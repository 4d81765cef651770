"""Fully connected and convolutional networks for encoders and decoders; no Pyro."""

from pvae.nn.classes import with_class
from pvae.nn.convolutional import ConvDecoder, ConvEncoder
from pvae.nn.flatten import Flatten
from pvae.nn.fully_connected import MLP, HiddenLayers
from pvae.nn.networks import decoder, encoder
from pvae.nn.scales import positive
from pvae.nn.sequences import BackwardRNN, GatedTransition, within
from pvae.nn.table import TableFeatures

__all__ = [
    "MLP",
    "BackwardRNN",
    "ConvDecoder",
    "ConvEncoder",
    "Flatten",
    "GatedTransition",
    "HiddenLayers",
    "TableFeatures",
    "decoder",
    "encoder",
    "positive",
    "with_class",
    "within",
]
