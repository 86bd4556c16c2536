from driver.sim.controllers.jobs import TRACKING, decide, pod_for

NOW = "2026-05-01T12:00:00Z"


def job(status=None, **spec):
    metadata = {"name": "train", "namespace": "default", "uid": "job-uid"}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [], "restartPolicy": "Never"}}
    return {"metadata": metadata, "spec": {"template": template, "completions": 1, **spec}, "status": status or {}}


def pod(uid, phase="Running", *, tracked=True, deleting=False, node="node-a"):
    metadata = {"name": uid, "namespace": "default", "uid": uid, "finalizers": [TRACKING] if tracked else []}
    if deleting:
        metadata["deletionTimestamp"] = NOW
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}}


def uncounted(**kinds):
    return {"uncountedTerminatedPods": kinds}


def conditions(actions):
    return [c["type"] for c in actions.status.get("conditions", [])]


def test_a_new_job_starts_as_many_pods_as_may_run_at_once():
    actions = decide(job(completions=5, parallelism=3), [], NOW)

    assert actions.create == 3
    assert actions.status["startTime"] == NOW


def test_not_more_pods_than_completions_are_missing():
    assert decide(job({"succeeded": 4}, completions=5, parallelism=3), [], NOW).create == 1


def test_pods_that_run_are_counted():
    actions = decide(job(completions=2, parallelism=2), [pod("a"), pod("b", deleting=True)], NOW)

    assert actions.create == 1
    assert (actions.status["active"], actions.status["terminating"]) == (1, 1)


def test_a_finished_pod_is_noted_in_the_status_that_is_written_before_it_is_released():
    actions = decide(job(), [pod("a", "Succeeded")], NOW)

    assert actions.status["uncountedTerminatedPods"] == {"succeeded": ["a"]}
    assert "succeeded" not in actions.status
    assert actions.release == (("default", "a"),)
    assert conditions(actions) == []


def test_a_noted_pod_is_released():
    actions = decide(job(uncounted(failed=["a"])), [pod("a", "Failed")], NOW)

    assert actions.release == (("default", "a"),)
    assert actions.create == 1


def test_a_released_pod_is_added_to_the_sum_once():
    actions = decide(job(uncounted(succeeded=["a"])), [pod("a", "Succeeded", tracked=False)], NOW)

    assert actions.status["succeeded"] == 1
    assert actions.status["uncountedTerminatedPods"] == {}
    assert decide(job(actions.status), [pod("a", "Succeeded", tracked=False)], NOW).status["succeeded"] == 1


def test_a_pod_deleted_before_it_was_scheduled_counts_as_failed():
    actions = decide(job(), [pod("a", "Pending", deleting=True, node="")], NOW)

    assert actions.status["uncountedTerminatedPods"] == {"failed": ["a"]}


def test_the_job_is_complete_when_enough_have_succeeded():
    actions = decide(job({"succeeded": 2}, completions=2), [], NOW)

    assert conditions(actions) == ["SuccessCriteriaMet", "Complete"]
    assert actions.status["completionTime"] == NOW
    assert actions.create == 0


def test_the_rest_is_deleted_first():
    actions = decide(job({"succeeded": 1}), [pod("left")], NOW)

    assert actions.delete == (("default", "left"),)
    assert conditions(actions) == []


def test_the_job_fails_after_too_many_failures():
    actions = decide(job({"failed": 3}, backoffLimit=2), [], NOW)

    assert conditions(actions) == ["FailureTarget", "Failed"]
    assert actions.status["conditions"][1]["reason"] == "BackoffLimitExceeded"
    assert "completionTime" not in actions.status


def test_a_finished_job_starts_nothing_and_is_not_written_again():
    done = decide(job({"succeeded": 1}), [], NOW).status

    actions = decide(job(done), [], "2026-05-01T13:00:00Z")

    assert actions.status == done
    assert actions.create == 0


def test_a_work_queue_ends_when_one_pod_has_succeeded_and_none_runs():
    queue = job({"succeeded": 1}, completions=None, parallelism=2)

    running = decide(queue, [pod("a")], NOW)
    ended = decide(queue, [], NOW)

    assert (running.create, running.delete, conditions(running)) == (0, (), [])
    assert conditions(ended) == ["SuccessCriteriaMet", "Complete"]


def test_a_suspended_job_runs_nothing():
    actions = decide(job(suspend=True), [pod("a")], NOW)

    assert (actions.create, actions.delete) == (0, (("default", "a"),))
    assert "startTime" not in actions.status


def test_the_pod_belongs_to_the_job_and_is_tracked():
    created = pod_for(job())

    assert created["metadata"]["generateName"] == "train-"
    assert created["metadata"]["finalizers"] == [TRACKING]
    assert created["metadata"]["labels"]["app"] == "x"
    assert created["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "train"
    assert created["metadata"]["ownerReferences"][0]["uid"] == "job-uid"
