// A Lambda function as AWS documents it: it knows nothing of Pelton.

class Busy extends Error {
  name = "Busy";
}

class Reject extends Error {
  name = "Reject";
}

export const handler = async (event, context) => {
  if (event.please === "fail") throw new Busy(`order ${event.n}`);
  if (event.please === "reject") throw new Reject(`order ${event.n}`);
  return { n: event.n, request: context.awsRequestId, function: context.functionName };
};
