"""What the processes of a run are called."""

from common.processes.layout import Layout


def test_messages_call_a_process_after_its_stages() -> None:
    assert Layout(2).text(0) == "the coordinator"
    assert Layout(2).text(2) == "stage 1"
    assert Layout(5, processes=2).text(2) == "stages 3 to 4"
    assert Layout(3, replicas=2, processes=2).text(4) == "stage 2 of replica 1"
    assert Layout(3, replicas=2, processes=2, readers=1).text(5) == "reader 0"


def test_tools_call_a_worker_after_its_first_stage() -> None:
    assert Layout(1, readers=1).names == ["coordinator", "stage0", "reader0"]
    assert Layout(3, replicas=2, processes=2).names == ["coordinator", "stage0", "stage2", "stage3", "stage5"]
