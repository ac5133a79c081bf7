import os

from model.devices import machine_memory


def test_a_container_has_the_memory_of_its_limit_and_no_more_than_the_machine(tmp_path):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine_memory(tmp_path) == machine
    for limit, memory in ((str(2**20), 2**20), ("max", machine), (str(2**60), machine)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert machine_memory(tmp_path) == memory
