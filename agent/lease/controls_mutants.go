//go:build mutants

package lease

var offS3Wait, offDeadline, offTerm, offFirstAck, offMachine bool

// SwitchOff switches one protection off ("" = none), for the negative controls; "term"
// together with "machine", which would make up for it.
func SwitchOff(what string) {
	offS3Wait, offDeadline, offTerm, offFirstAck, offMachine = what == "S3 wait", what == "deadline", what == "term", what == "first ack", what == "machine" || what == "term"
}
