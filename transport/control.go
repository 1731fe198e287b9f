package transport

// ControlKey is the metadata key that tells what a master and its replicas say to each other from
// what the replicas apply. Its value is not empty. Such a message is no CQRS message: nobody gets
// one who has not reported to the master himself.
const ControlKey = "cqrsync_control"

// MasterTopic is the topic that reaches whoever answers for a model: what replicas send to its
// master. It begins otherwise than DirectTopic, so it is none, whatever queues are called.
func MasterTopic(model string) string { return "cqrsync.master." + model }
