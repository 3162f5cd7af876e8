const { Event, Reject } = require("pelton");

exports.handle = async (event) => {
  if (event.subject === "reject") throw new Reject("no");
  return new Event("a", event.data);
};
