from common.processes.names import process_names, process_text, reader_name, worker_name, worker_text


def test_a_worker_is_named_by_stage_and_where_there_are_several_by_replica() -> None:
    assert worker_name(3) == "worker3"
    assert worker_text(3, stages=4, replicas=1) == "stage 3"
    assert worker_text(3, stages=2, replicas=2) == "stage 1 of replica 1"


def test_a_process_is_called_after_its_stages() -> None:
    assert process_text(1, stages=2, replicas=1, processes=2) == "stage 1"
    assert process_text(1, stages=5, replicas=1, processes=2) == "stages 3 to 4"
    assert process_text(3, stages=3, replicas=2, processes=2) == "stage 2 of replica 1"
    assert process_text(4, stages=3, replicas=2, processes=2) == "reader 0"
    assert process_names(stages=1, replicas=1, processes=1, readers=1) == ["coordinator", "stage0", reader_name(0)]
    assert process_names(stages=3, replicas=2, processes=2) == ["coordinator", "stage0", "stage2", "stage3", "stage5"]
