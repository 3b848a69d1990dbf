"""A dumped configuration reads back as the same one."""

from helpers.config_text import EVERY_KEY, REST, parse

from ktlsgate.service.config_dump import dump_config


def test_dump_reads_back_as_the_same_config():
    for text in (EVERY_KEY, REST):
        parsed = parse(text)
        assert parse(dump_config(parsed)) == parsed
