package api

import "context"

// Doctor is what the other members see of the host that is asked.
type Doctor struct {
	Findings []Finding `json:"findings"`
}

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check" yaml:"check"`
	Result string `json:"result" yaml:"result"` // ok, warning, wrong, unknown
	What   string `json:"what" yaml:"what"`
	Do     string `json:"do,omitempty" yaml:"do,omitempty"`
}

// Results of a check.
const (
	FindingOK      = "ok"
	FindingWarning = "warning" // it works, and this will hurt one day
	FindingWrong   = "wrong"
	FindingUnknown = "unknown"
)

// Doctor asks the agent to have itself tried by the others.
func (c *Client) Doctor(ctx context.Context) (Doctor, error) { return get[Doctor](ctx, c, "doctor") }
