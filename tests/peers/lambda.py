"""A Lambda function as AWS documents it: it knows nothing of Pelton."""


class Busy(Exception):
    pass


class Reject(Exception):
    pass


def handler(event, context):
    match event.get("please"):
        case "fail":
            raise Busy(f"order {event['n']}")
        case "reject":
            raise Reject(f"order {event['n']}")
    assert context.get_remaining_time_in_millis() > 0
    return {"n": event["n"], "request": context.aws_request_id, "function": context.function_name}
