package api

import "fmt"

// VerbSwitchover moves the mastership to a standby that has everything, checked by
// checksum before the term is given back; if nobody has, the old master goes on. Order.To
// names the standby, DryRun only looks.
const VerbSwitchover Verb = "switchover"

// Results of a check.
const (
	CheckOK      = "ok"
	CheckWarning = "warning" // it works, and a person should know
	CheckWrong   = "wrong"   // not like this
	CheckUnknown = "unknown" // could not be found out
)

// Plan is what a switchover would do, and whether it would be done.
type Plan struct {
	From     string  `json:"from"` // the master
	To       string  `json:"to"`   // "" = nobody can follow
	Term     uint64  `json:"term"`
	Possible bool    `json:"possible"`
	Checks   []Check `json:"checks"`
	// Checked is the revision up to which the whole copy was compared with the datastore.
	Checked int64 `json:"checked_revision,omitempty"`
}

// Check is one thing that was looked at before.
type Check struct {
	Check  string `json:"check"`
	Result string `json:"result"` // ok, warning, wrong, unknown
	What   string `json:"what"`
	Do     string `json:"do,omitempty"` // what helps
}

// Add notes the outcome of a check.
func (p *Plan) Add(c ...Check) { p.Checks = append(p.Checks, c...) }

// Checked makes a check: ok with what is said, or wrong with the error and what helps.
func Checked(name string, err error, ok, do string) Check {
	if err != nil {
		return Check{name, CheckWrong, err.Error(), do}
	}
	return Check{Check: name, Result: CheckOK, What: ok}
}

// Wrong are the checks that speak against it, a line each.
func (p *Plan) Wrong() (lines []string) {
	for _, c := range p.Checks {
		if c.Result == CheckWrong {
			lines = append(lines, fmt.Sprintf("%s: %s", c.Check, c.What))
		}
	}
	return lines
}
