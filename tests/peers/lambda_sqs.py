"""A Lambda function for a queue, with partial batch responses as AWS documents them."""
import json
import os


def handler(event, context):
    numbers = []
    with open(os.environ["SITE"] + "/seen", "a") as seen:
        for record in event["Records"]:
            assert record["eventSource"] == "aws:sqs"
            assert record["messageAttributes"]["pelton-subject"]["stringValue"] == "in.peer"
            attempt = record["attributes"]["ApproximateReceiveCount"]
            numbers.append(json.loads(record["body"])["n"])
            print(json.dumps([numbers[-1], attempt, len(event["Records"])]), file=seen)
    if 55 in numbers:
        raise RuntimeError("poison")
    if 77 in numbers:
        return {"batchItemFailures": [{"itemIdentifier": "nobody"}]}
    failures = []
    for record, number in zip(event["Records"], numbers):
        first = record["attributes"]["ApproximateReceiveCount"] == "1"
        if number % 10 == 3 or (number % 10 == 4 and first):
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}
