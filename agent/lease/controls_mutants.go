//go:build mutants

package lease

var offS3Wait, offDeadline, offTerm, offFirstAck bool

// SwitchOff switches one protection off ("" = none), for the negative controls.
func SwitchOff(what string) {
	offS3Wait, offDeadline, offTerm, offFirstAck = what == "S3 wait", what == "deadline", what == "term", what == "first ack"
}
