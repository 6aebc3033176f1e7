package api

import (
	"fmt"
	"slices"
	"strings"
)

// AccessRole is what somebody may do: each role may do what those before it may.
// (A [Role] is what a member is.)
type AccessRole string

// The roles. NoAccess and StatusOnly are for local users that nobody gave a role.
const (
	NoAccess   AccessRole = "none"
	StatusOnly AccessRole = "status"   // asks how the cluster is, nothing else
	Viewer     AccessRole = "viewer"   // sees everything
	Operator   AccessRole = "operator" // moves the mastership, without loss and without force
	Admin      AccessRole = "admin"    // members, keys, access, force
)

// AccessRoles are those that can be given, the lowest first.
var AccessRoles = []AccessRole{Viewer, Operator, Admin}

var rank = map[AccessRole]int{NoAccess: 0, StatusOnly: 1, Viewer: 2, Operator: 3, Admin: 4}

// Rule says who may do what: one row of the table in docs/roles.md.
type Rule struct {
	// Action is a question ("status"), a [Verb], or a verb with --force.
	Action string
	Role   AccessRole // the lowest that may
	What   string     // in words
}

// Rules is the table. What is not in it is for admins.
var Rules = []Rule{
	{"status", StatusOnly, "how the cluster is"},
	{"members", Viewer, "who is in the cluster"},
	{"services", Viewer, "what is announced and found"},
	{"health", Viewer, "how the boards are"},
	{"history", Viewer, "the changes of master"},
	{"explain", Viewer, "why it did or did not act"},
	{"audit", Viewer, "who did what from where"},
	{"metrics", Viewer, "the figures for Prometheus"},
	{"doctor", Viewer, "what the other hosts see of this one"},
	{string(VerbPause), Operator, "stop automatic promotion"},
	{string(VerbResume), Operator, "end a pause"},
	{string(VerbSwitchover), Operator, "move the mastership to a standby, without loss, or look whether that would work"},
	{string(VerbStepDown), Operator, "move the mastership to a standby, without loss"},
	{string(VerbFailover), Operator, "promote a ready standby when no master is alive"},
	{string(VerbAcknowledge), Operator, "let the failovers so far not count any more"},
	{string(VerbVerify), Operator, "compare a standby's copy with the master's datastore"},
	{string(VerbRehearse), Operator, "try a promotion on a standby, beside what it does"},
	{string(VerbResume) + " --force", Admin, "end a pause without the holder's word"},
	{string(VerbStepDown) + " --force", Admin, "stop the master although nobody is ready"},
	{string(VerbFailover) + " --force", Admin, "promote a copy that lacks writes"},
	{string(VerbLeave), Admin, "take the asked host out of the cluster"},
	{string(VerbRemove), Admin, "take a lost host out of the cluster"},
	{string(VerbReplace), Admin, "let another board take the place of a member by an invitation"},
	{"tokens", Admin, "the tokens that let hosts join"},
	{string(VerbTokenCreate), Admin, "make a token that lets hosts join"},
	{string(VerbTokenRevoke), Admin, "withdraw a token"},
	{"rotation", Viewer, "how far a change of keys is"},
	{string(VerbRotate), Admin, "change the gossip key or the CA, withdraw all tokens"},
	{string(VerbRotateCancel), Admin, "take a change of the CA back that has just begun"},
	{"access", Admin, "create, list and revoke access for people on other hosts"},
}

// LowestRole is who may do an action at least. With --force it is never less than an
// admin, and what the table does not know is an admin's too.
func LowestRole(action string) AccessRole {
	for _, r := range Rules {
		if r.Action == action {
			return r.Role
		}
	}
	return Admin
}

// Action of an order, as the table calls it.
func (o Order) Action() string {
	if o.Force {
		return string(o.Verb) + " --force"
	}
	return string(o.Verb)
}

// Who asks, and what that one may do.
type Who struct {
	// Name is the user's, or of the access that was created.
	Name string
	// From is the way: "the socket, uid 1000", "10.77.0.9".
	From string
	Role AccessRole
	// Remote: over the peer port with a file of `relevo access create`.
	Remote bool
	// Nodes and Actions are what a policy limits an access to; empty = all.
	Nodes, Actions []string

	why error // there is no role at all
}

// May says whether w may do an action which concerns nodes, asked of the agent of node at;
// if not, why.
func (w Who) May(action, at string, concerns ...string) error {
	need := LowestRole(action)
	if w.why != nil {
		return w.why
	}
	if rank[w.Role] < rank[need] {
		if w.Remote {
			return fmt.Errorf("%q needs the role %s, and the access %s has %s: an admin can make another with `relevo access create`", action, need, w.Name, roleInWords(w.Role))
		}
		way := "use sudo"
		if rank[need] <= rank[Operator] {
			way = "use sudo, or join the group once with `sudo adduser $USER relevo` and log in again"
		}
		return fmt.Errorf("%q needs the role %s, and %s has %s: %s", action, need, w.Name, roleInWords(w.Role), way)
	}
	if len(w.Actions) > 0 && action != "status" && !slices.Contains(w.Actions, action) {
		return fmt.Errorf("%q is not among the actions that the access %s is limited to: %s", action, w.Name, strings.Join(w.Actions, ", "))
	}
	if len(w.Nodes) == 0 {
		return nil
	}
	for _, n := range append([]string{at}, concerns...) {
		if n != "" && !slices.Contains(w.Nodes, n) {
			return fmt.Errorf("%q concerns %s, and the access %s is limited to %s", action, n, w.Name, strings.Join(w.Nodes, ", "))
		}
	}
	return nil
}

func roleInWords(r AccessRole) string {
	switch r {
	case StatusOnly:
		return "none and sees the status only"
	case NoAccess, "":
		return "none"
	}
	return string(r)
}
