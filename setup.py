"""Build the package from the facts in settings.ini, which are stated there and nowhere else."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(HERE / "settings.ini", encoding="utf-8")
facts = parser["DEFAULT"]


def lines(key: str) -> list[str]:
    "The non-empty lines of a setting that are not comments."
    return [line.strip() for line in facts[key].splitlines() if line.strip() and not line.strip().startswith("#")]


EXTRAS = "_requirements"
extras = {key.removesuffix(EXTRAS): lines(key) for key in facts if key.endswith(EXTRAS)}
extras["docs"] = sorted({*extras["docs"], *extras["lab"]})
extras["dev"] = sorted({*extras["dev"], *extras["docs"], *extras["course"]})

setup(
    name=facts["name"],
    version=facts["version"],
    description=facts["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=facts["author"],
    license=facts["license"],
    license_files=["LICENSE"],
    keywords=[word.strip() for word in facts["keywords"].split(",")],
    python_requires=facts["python_requires"],
    install_requires=lines("requirements"),
    extras_require=extras,
    packages=find_packages(include=["ivdr", "ivdr.*"]),
    package_data={"ivdr": ["py.typed", "*.yaml", "recipes/*.yaml"]},
    entry_points={"console_scripts": lines("console_scripts")},
)
