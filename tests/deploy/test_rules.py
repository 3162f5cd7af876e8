"""Every alert of deploy/monitoring has a case in which it fires and one, close by, in which it does not."""

import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
RULES = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yaml").read_text())["spec"]
RUNBOOK = (ROOT / "deploy" / "runbook.md").read_text()
AT = "45m"  # one sample a minute, an hour of them

POD = 'namespace="shop", job="pelton", pod="pelton-1"'
OTHER = POD.replace("-1", "-2")


def series(name, values, labels="", pod=POD):
    labels = f', binding="payment"{labels}' if "function=" not in labels else labels
    return {"series": f"{name}{{{pod}{labels}}}", "values": values}


def outcomes(**rates):
    return [series("pelton_invocations_total", f"0+{rate}x60", f', outcome="{outcome}"') for outcome, rate in rates.items()]


def waits(quick):
    bounds = {"30": quick, "300": 100, "+Inf": 100}
    return [series("pelton_queue_wait_seconds_bucket", f"0+{rate}x60", f', le="{le}"') for le, rate in bounds.items()]


def up(values, pod=POD):
    return {"series": f"up{{{pod}}}", "values": values}


def connected(values, pod=POD):
    return {"series": f"pelton_nats_connected{{{pod}}}", "values": values}


def reloaded(values, pod=POD):
    return {"series": f"pelton_manifest_last_reload_successful{{{pod}}}", "values": values}


PENDING, UNACKED = "pelton_consumer_pending", "pelton_consumer_ack_pending"
BINDING = {"namespace": "shop", "job": "pelton", "binding": "payment"}
ONE_POD = {"namespace": "shop", "job": "pelton", "pod": "pelton-1"}

# alert, labels it fires with, series with which it fires, series with which it does not
CASES = [
    ("PeltonRunnerDown", ONE_POD, [up("0x60"), up("1x60", OTHER)], [up("1x41 0x20"), up("1x60", OTHER)]),
    ("PeltonRunnerDown", {"job": "pelton"}, [], [up("1x60")]),
    ("PeltonNatsDisconnected", ONE_POD, [connected("0x60"), connected("1x60", OTHER)], [connected("1x43 0x20")]),
    ("PeltonBindingDegraded", BINDING, [series("pelton_binding_up", "0x60")], [series("pelton_binding_up", "1x41 0x20")]),
    ("PeltonErrorRatioHigh", BINDING, outcomes(done=90, retry=10), outcomes(done=96, retry=4)),
    ("PeltonErrorRatioHigh", BINDING, outcomes(done=90, unavailable=10), []),
    ("PeltonMostlyFailing", BINDING, outcomes(done=40, crash=60), outcomes(done=60, crash=40)),
    ("PeltonStalled", BINDING, [series(PENDING, "5x60"), *outcomes(done=0, retry=9)], [series(PENDING, "5x60"), *outcomes(done=1)]),
    ("PeltonStalled", BINDING, [series(PENDING, "5x60")], [series(PENDING, "5x60"), series("pelton_consumer_paused", "1x60")]),
    ("PeltonStalled", BINDING, [series(PENDING, "5x60"), series("pelton_consumer_paused", "0x60")], [series(PENDING, "0x60")]),
    ("PeltonQueueWaitHigh", BINDING, waits(10), waits(99)),
    ("PeltonLagGrowing", BINDING, [series(PENDING, "1000+50x60"), series(UNACKED, "5x60")], [series(PENDING, "9000-50x60"), series(UNACKED, "5x60")]),
    ("PeltonLagGrowing", BINDING, [series(PENDING, "1000+5x60"), series(UNACKED, "5x60")], [series(PENDING, "100+5x60"), series(UNACKED, "5x60")]),
    (
        "PeltonDeadLettersArriving",
        BINDING,
        [series("pelton_dead_letters_total", "0x35 1x60", ', reason="rejected"')],
        [series("pelton_dead_letters_total", "7x60", ', reason="rejected"')],
    ),
    (
        "PeltonDeadLetterPublishFailing",
        BINDING,
        [series("pelton_dead_letter_publish_errors_total", "0x42 1x60")],
        [series("pelton_dead_letter_publish_errors_total", "3x60")],
    ),
    (
        "PeltonRedeliveryRatioHigh",
        BINDING,
        [series("pelton_redeliveries_total", "0+20x60"), series("pelton_events_received_total", "0+100x60")],
        [series("pelton_redeliveries_total", "0+5x60"), series("pelton_events_received_total", "0+100x60")],
    ),
    (
        "PeltonAckPendingSaturated",
        BINDING,
        [series(UNACKED, "3900x60"), series("pelton_consumer_max_ack_pending", "4096x60"), series("pelton_partitions_owned", "0x60")],
        # With `order_by` that is how a runner at work looks.
        [series(UNACKED, "64x60"), series("pelton_consumer_max_ack_pending", "64x60"), series("pelton_partitions_owned", "1x60")],
    ),
    (
        "PeltonConcurrencySaturated",
        BINDING,
        [series("pelton_invocations_in_flight", "16x60"), series("pelton_slots", "16x60"), series(PENDING, "3x60")],
        [series("pelton_invocations_in_flight", "16x60"), series("pelton_slots", "16x60"), series(PENDING, "0x60")],
    ),
    (
        "PeltonWorkersCrashLooping",
        {"namespace": "shop", "job": "pelton", "function": "pay"},
        [series("pelton_worker_starts_total", "0+1x60", ', function="pay", reason="crash"')],
        [series("pelton_worker_starts_total", "0+1x60", ', function="pay", reason="demand"')],
    ),
    ("PeltonTimeouts", BINDING, outcomes(done=95, timeout=5), outcomes(done=999, timeout=1)),
    ("PeltonLanesBlocked", BINDING, [series("pelton_lanes_blocked", "1x60")], [series("pelton_lanes_blocked", "1x20 0x60")]),
    ("PeltonManifestReloadFailed", ONE_POD, [reloaded("0x60"), reloaded("1x60", OTHER)], [reloaded("1x43 0x20")]),
]


def alerts():
    return [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]


def case(alert, given, labels):
    """A test of promtool: what fires at the end, with which labels."""
    severity = next(rule["labels"]["severity"] for rule in alerts() if rule["alert"] == alert)
    firing = {"__name__": "ALERTS", "alertname": alert, "alertstate": "firing", "severity": severity}
    fires = [] if labels is None else [{"labels": shown({**firing, **labels}), "value": 1}]
    query = f'ALERTS{{alertname="{alert}", alertstate="firing"}}'
    tested = {"expr": query, "eval_time": AT, "exp_samples": fires}
    return {"interval": "1m", "name": alert, "input_series": given, "promql_expr_test": [tested]}


def shown(labels):
    name = labels.pop("__name__")
    return name + "{" + ", ".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


class Rules(unittest.TestCase):
    def promtool(self, tests, rules=RULES):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rules.yml").write_text(yaml.safe_dump(rules))
            path = Path(folder) / "tests.yml"
            path.write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}))
            done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_each_alert_fires_and_keeps_silent(self):
        tests = [case(alert, fires, labels) for alert, labels, fires, _ in CASES]
        tests += [case(alert, silent, None) for alert, _, _, silent in CASES]
        code, said = self.promtool(tests)
        self.assertEqual(code, 0, said)

    def test_alerts_that_are_gone_fail_their_cases(self):
        groups = [{**group, "rules": [rule for rule in group["rules"] if "record" in rule]} for group in RULES["groups"]]
        code, said = self.promtool([case(alert, fires, labels) for alert, labels, fires, _ in CASES], {"groups": groups})
        self.assertNotEqual(code, 0)
        for alert, *_ in CASES:
            self.assertIn(f'expr: "ALERTS{{alertname=\\"{alert}\\"', said)

    def test_each_alert_has_a_case_and_a_section_of_the_runbook(self):
        names = [rule["alert"] for rule in alerts()]
        self.assertEqual(sorted(set(names)), sorted({alert for alert, *_ in CASES}))
        sections = [line.removeprefix("## ") for line in RUNBOOK.splitlines() if line.startswith("## Pelton")]
        self.assertEqual(sections, names)
        for rule in alerts():
            self.assertEqual(rule["annotations"]["runbook"], f"deploy/runbook.md#{rule['alert'].lower()}")
            self.assertIn(rule["labels"]["severity"], ("page", "warning"))


if __name__ == "__main__":
    unittest.main()
