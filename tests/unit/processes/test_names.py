from common.processes.names import worker_name, worker_text


def test_a_worker_is_named_by_stage_and_where_there_are_several_by_replica() -> None:
    assert worker_name(3) == "worker3"
    assert worker_text(3, stages=4, replicas=1) == "stage 3"
    assert worker_text(3, stages=2, replicas=2) == "stage 1 of replica 1"
