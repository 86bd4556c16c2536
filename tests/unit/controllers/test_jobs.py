from driver.sim.controllers.jobs import decide, pod_for

NOW = "2026-05-01T12:00:00Z"


def job(status=None, **spec):
    metadata = {"name": "train", "namespace": "default", "uid": "job-uid"}
    template = {"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [], "restartPolicy": "Never"}}
    return {"metadata": metadata, "spec": {"template": template, "completions": 1, **spec}, "status": status or {}}


def pod(uid, phase="Running", *, deleting=False):
    metadata = {"name": uid, "namespace": "default", "uid": uid}
    if deleting:
        metadata["deletionTimestamp"] = NOW
    return {"metadata": metadata, "spec": {"nodeName": "node-a"}, "status": {"phase": phase}}


def conditions(actions):
    return [c["type"] for c in actions.status.get("conditions", [])]


def test_a_new_job_starts_as_many_pods_as_may_run_at_once():
    actions = decide(job(completions=5, parallelism=3), [], NOW)

    assert actions.create == 3
    assert actions.status["startTime"] == NOW


def test_not_more_pods_than_completions_are_missing():
    assert decide(job(completions=2, parallelism=3), [pod("a", "Succeeded")], NOW).create == 1


def test_a_pod_that_is_being_deleted_has_a_successor():
    actions = decide(job(completions=2, parallelism=2), [pod("a"), pod("b", deleting=True)], NOW)

    assert (actions.create, actions.status["active"]) == (1, 1)


def test_the_job_is_complete_when_enough_have_succeeded():
    actions = decide(job(completions=2), [pod("a", "Succeeded"), pod("b", "Succeeded")], NOW)

    assert conditions(actions) == ["Complete"]
    assert (actions.status["completionTime"], actions.create) == (NOW, 0)


def test_what_is_left_of_a_complete_job_is_deleted():
    actions = decide(job(), [pod("a", "Succeeded"), pod("left")], NOW)

    assert actions.delete == (("default", "left"),)
    assert conditions(actions) == ["Complete"]


def test_the_job_fails_after_too_many_failures():
    actions = decide(job(backoffLimit=1), [pod("a", "Failed"), pod("b", "Failed")], NOW)

    assert conditions(actions) == ["Failed"]
    assert "completionTime" not in actions.status


def test_a_finished_job_starts_nothing_and_is_not_written_again():
    done = decide(job(), [pod("a", "Succeeded")], NOW).status

    actions = decide(job(done), [], "2026-05-01T13:00:00Z")

    assert (actions.status, actions.create) == (done, 0)


def test_the_pod_belongs_to_the_job():
    created = pod_for(job())

    assert created["metadata"]["generateName"] == "train-"
    assert created["metadata"]["labels"]["app"] == "x"
    assert created["metadata"]["ownerReferences"][0]["uid"] == "job-uid"
