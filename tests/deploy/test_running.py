"""What deploy/ promises, held against a runner, a nats-server and a Prometheus that run."""

import json
import re
import subprocess
import unittest

import yaml

import running
from running import ROOT, deploy_check, eventually, get, query, send

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "pelton.json").read_text())
RULES = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yaml").read_text())["spec"]
# What Grafana fills in.
VARIABLES = {"$__rate_interval": "30s", "$namespace": ".*", "$binding": ".*"}
# Of Prometheus itself.
TARGET_LABELS = {"namespace", "job", "pod", "instance"}


def filled_in(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Every query of the dashboard and the rules, with where it stands."""
    for panel in panels():
        yield from ((f"panel {panel['title']}", filled_in(target["expr"])) for target in panel["targets"])
    for note in DASHBOARD["annotations"]["list"]:
        yield f"annotation {note['name']}", filled_in(note["expr"])
    for group in RULES["groups"]:
        yield from ((f"rule {rule.get('alert') or rule['record']}", rule["expr"]) for rule in group["rules"])


class Running(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        running.start_shop(cls)
        running.start_prometheus(cls)
        receipts = running.Subscription(cls, "receipts.issued")
        cls.addClassCleanup(receipts.close)
        send(cls, "orders.placed", {"orderId": "1", "total": 5})
        cls.receipt = json.loads(receipts.next())
        send(cls, "orders.placed", {"orderId": "2", "total": 0})

        def given_up():
            return query(cls, 'pelton_dead_letter_messages{binding="payment"} == 1') or None

        eventually("the order without a price is a dead letter", given_up)
        _, listed = get(cls.prometheus, '/api/v1/series?match[]={__name__=~"pelton_.%2B"}')
        cls.labels = {}
        for series in listed["data"]:
            cls.labels.setdefault(series["__name__"], set()).update(series)

    def test_the_example_works(self):
        self.assertEqual(self.receipt, {"orderId": "1", "receipt": "R-1", "amount": 5})

    def test_the_rendered_files_pass_the_lint(self):
        done = subprocess.run([running.PELTON, "lint", self.app / "pelton.yaml"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)

    def test_the_scaled_object_asks_for_fields_that_are_there(self):
        rendered = deploy_check.Rendered(deploy_check.render("overlays/keda"))
        (scaled,) = rendered.all("ScaledObject")
        status, answer = get(self.admin, "/scale")
        self.assertEqual(status, 200)
        for trigger in scaled["spec"]["triggers"]:
            self.assertTrue(trigger["metadata"]["url"].endswith(":8320/scale"))
            found = answer
            for key in trigger["metadata"]["valueLocation"].split("."):
                self.assertIn(key, found)
                found = found[key]
            self.assertIsInstance(found, int)
            self.assertGreater(float(trigger["metadata"]["targetValue"]), 0)

    def test_each_panel_shows_something(self):
        waiting = {(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]}
        orders = iter(range(3, 10_000))

        def look():
            # A rate needs something that goes on.
            send(self, "orders.placed", {"orderId": str(next(orders)), "total": 7})
            waiting.difference_update([item for item in waiting if query(self, filled_in(item[1]))])
            return not waiting or None

        try:
            eventually("each panel shows something", look)
        except AssertionError as error:
            raise AssertionError(f"{error}; empty: {sorted(waiting)}") from None

    def test_queries_name_metrics_and_labels_that_exist(self):
        recorded = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
        for place, expression in expressions():
            with self.subTest(place):
                self.assertEqual(list(unknown(expression, self.labels, recorded)), [])

    def test_the_look_at_names_can_fail(self):
        known = {"pelton_slots": {"__name__", "binding"}}
        for expression in ("pelton_slot", 'pelton_slots{bind="x"}', "sum by (function) (pelton_slots)"):
            self.assertNotEqual(list(unknown(expression, known, set())), [], expression)
        self.assertEqual(list(unknown('sum by (binding) (pelton_slots{binding="x", job="y"})', known, set())), [])

    def test_the_variables_of_the_dashboard_have_values(self):
        for variable in DASHBOARD["templating"]["list"]:
            if variable["type"] != "query":
                continue
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            found = query(self, f"count by ({label}) ({filled_in(selector)})")
            self.assertTrue(all(item["metric"].get(label) for item in found) and found, variable["name"])

    def test_prometheus_takes_every_rule(self):
        def evaluated():
            _, answer = get(self.prometheus, "/api/v1/rules")
            rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
            return rules if all(rule["health"] != "unknown" for rule in rules) else None

        rules = eventually("every rule was evaluated", evaluated)
        self.assertEqual(len(rules), sum(len(group["rules"]) for group in RULES["groups"]))
        self.assertEqual([rule for rule in rules if rule["health"] != "ok"], [])

    def test_recorded_series_are_there(self):
        for group in RULES["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    eventually(rule["record"], lambda name=rule["record"]: query(self, name) or None)


def unknown(expression, labels, recorded):
    """What an expression names that no series has."""
    text = re.sub(r'"[^"]*"', '""', expression)
    named = set()
    for metric, selector in re.findall(r"\b(pelton_\w+|binding:\w+)\b(?:\{([^}]*)\})?", text):
        if metric.startswith("binding:"):
            # The name of a recorded series ends behind a second colon, which is no letter.
            if not any(name.startswith(metric) for name in recorded):
                yield f"no rule records {metric}"
            continue
        if metric not in labels:
            yield f"no metric {metric}"
            continue
        named |= labels[metric]
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector or ""))
        yield from (f"{metric} has no label {label}" for label in used - labels[metric] - TARGET_LABELS)
    if not named:
        return
    for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
        used = {label.strip() for label in group.split(",")}
        yield from (f"no series has the label {label}" for label in used - named - TARGET_LABELS)


if __name__ == "__main__":
    unittest.main()
