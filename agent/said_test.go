package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/audit"
	"relevo.dev/relevo/agent/lease"
	"relevo.dev/relevo/agent/member"
	"relevo.dev/relevo/agent/quorum"
	"relevo.dev/relevo/health"
)

// wellHeard is what n1 hears in a cluster in which all is well: n2 is the master, v3 the
// arbiter, m4 neither votes nor is a candidate.
func wellHeard() heard {
	ok, lag, rev := "", 0.5, uint64(7)
	in := heard{
		Status: api.Status{Cluster: "home", Node: "n1", Role: api.RoleStandby, Term: 3},
		view: view{Term: 3, Holder: "n2", Arbiter: "v3", Since: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
			Servers: []quorum.Server{{Node: "n1", Voter: true}, {Node: "n2", Voter: true}, {Node: "v3", Voter: true}}},
		answers: map[string]summary{
			"n1": {Role: api.RoleStandby, Phase: lease.Standby.String(), Term: 3, Lease: -1, Arbiter: "v3", Standby: &api.Standby{Node: "n1", Ready: true, LagSeconds: &lag, Revision: &rev}},
			"n2": {Role: api.RoleMaster, Phase: lease.Master.String(), Term: 3, Lease: 5, APIError: &ok, Arbiter: "v3"},
			"v3": {Role: api.RoleVoter, Phase: "none", Term: 3, Lease: -1, Arbiter: "v3", Judge: &judgement{Possible: true, To: "n1", Notes: []string{"n1: ready"}}},
			"m4": {Role: api.RoleMember, Phase: "none", Lease: -1},
		},
		failed: map[string]error{},
	}
	for _, n := range []string{"n1", "n2", "v3"} {
		s, v := in.answers[n], in.view
		s.View = &v
		in.answers[n] = s
	}
	for _, n := range []string{"n1", "n2", "v3", "m4"} {
		in.members = append(in.members, member.Member{Node: n, Status: member.Alive})
	}
	return in
}

func TestMergeWell(t *testing.T) {
	s := merge(wellHeard())
	if len(s.Problems) > 0 || !s.Failover.Possible || s.Master == nil || s.Master.API != "ok" || len(s.Standbys) != 1 || !s.Standbys[0].Ready {
		t.Fatalf("%+v", s)
	}
}

// lying are answers in which a member says more than it may.
var lying = []string{
	`{"role":"master","phase":"master","term":99,"lease_seconds":1e308,"api_error":"x","arbiter":"m4","unfit":"\u001b[2J",
	 "standby":{"node":"n1","ready":false,"why":"it is mine","fresh_at":"9999-12-31T23:59:59-23:59","lag_seconds":-1e308,"revision":18446744073709551615,
	  "verified":{"node":"n1","at":"0000-01-01T00:00:00+23:59","differences":[{"revision":1,"key":"k"}]},"rehearsed":{"node":"n1","error":"no"}},
	 "judge":{"possible":false,"to":"m4","why":["no"],"evidence":["e"],"wait_seconds":1e308},
	 "view":{"term":18446744073709551615,"holder":"m4","since":"9999-12-31T23:59:59-23:59","pause":{"phase":"paused"},"servers":[{"node":"m4","voter":true},{"node":"m4"},{"node":"m4"},{"node":"m4"},{"node":"n1"}]},
	 "findings":[{"what":"w","do":"d","blocks":true}],"board":[{"check":"c","result":"wrong","what":"w"}],
	 "conditions":[{"type":"Hot","status":true,"message":"m"}],"health":{"at":"9999-12-31T23:59:59-23:59"}}`,
	`{"standby":{"node":"m4","ready":true}}`, `{"judge":{"possible":true,"to":"m4"}}`, `{}`, `{"standby":{}}`,
}

// FuzzSummary: what a member answers, when it is asked how it is, changes what is told of it;
// of the others nothing, but for what it is the one to know.
func FuzzSummary(f *testing.F) {
	for _, s := range lying {
		if err := json.Unmarshal([]byte(s), &summary{}); err != nil {
			f.Fatal(err)
		}
		for who := range byte(3) {
			f.Add([]byte(s), who)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, who byte) {
		var s summary
		if json.Unmarshal(b, &s) != nil {
			return
		}
		liar := []string{"m4", "v3", "n2"}[int(who)%3]
		in := wellHeard()
		s = said(liar, s)
		in.answers[liar] = s
		lied := merge(in)
		var e api.Explanation
		explain(&e, in.view, in.answers, in.failed)
		for _, v := range []any{lied, e, api.NodeHealth{Report: &s.Health, Conditions: s.Conditions}} {
			if text, err := json.Marshal(v); err != nil {
				t.Fatalf("it is not told to anybody: %v", err)
			} else if len(text) > 4<<10+16*len(b) {
				t.Fatalf("%d bytes became %d", len(b), len(text))
			}
		}
		heardAll := maps.Clone(in.answers)
		delete(in.answers, liar)
		in.failed[liar] = errors.New("it does not answer")
		silent := merge(in)
		var still api.Explanation
		explain(&still, in.view, in.answers, in.failed)
		same := func(what string, x, y any) {
			if !reflect.DeepEqual(x, y) {
				t.Errorf("%s changed %s: %+v became %+v", liar, what, y, x)
			}
		}
		same("the others' copies", others(lied.Standbys, liar), others(silent.Standbys, liar))
		same("who votes", lied.Quorum, silent.Quorum)
		same("the pause", lied.Pause, silent.Pause)
		same("the virtual IP", lied.VIP, silent.VIP)
		if liar != "n2" { // which says how its own lease is
			same("the master", lied.Master, silent.Master)
		}
		if liar != "v3" { // which says who would follow
			same("a failover", lied.Failover, silent.Failover)
			same("what the arbiter says", []any{e.Arbiter, e.Possible, e.To, e.Notes}, []any{still.Arbiter, still.Possible, still.To, still.Notes})
		}
		for _, st := range lied.Standbys {
			if st.Node == liar && (st.Verified != nil && st.Verified.Node != liar || st.Rehearsed != nil && st.Rehearsed.Node != liar) {
				t.Errorf("%s speaks of a check of another: %+v", liar, st)
			}
		}
		if liar == "m4" {
			same("what is told to those whom raft tells nothing", bestView(heardAll), bestView(in.answers))
			same("the problems", notOf(lied.Problems, "m4"), notOf(silent.Problems, "m4"))
			if i := slices.IndexFunc(lied.Standbys, func(st api.Standby) bool { return st.Node == "m4" }); i >= 0 && lied.Standbys[i].Ready {
				t.Error("m4, which is no candidate, is shown as a standby that is ready")
			}
		}
	})
}

func others(all []api.Standby, but string) (out []api.Standby) {
	for _, s := range all {
		if s.Node != but {
			out = append(out, s)
		}
	}
	return out
}

func notOf(all []api.Problem, node string) (out []api.Problem) {
	for _, p := range all {
		if !strings.Contains(p.What, node) {
			out = append(out, p)
		}
	}
	return out
}

// An answer of a megabyte does not keep anybody from reading the others'.
func TestSaidIsBounded(t *testing.T) {
	long := strings.Repeat("ä<", 1<<17)
	s := summary{Phase: long, Arbiter: long, Unfit: long, APIError: &long, Standby: &api.Standby{Why: long, Version: long}, Judge: &judgement{To: long}, View: &view{Holder: long, Servers: []quorum.Server{{Node: "n2"}}}}
	for range 1 << 12 {
		s.Judge.Why = append(s.Judge.Why, long)
		s.Conditions = append(s.Conditions, health.Condition{Message: long, Status: health.Yes})
		s.Board = append(s.Board, api.Finding{What: long})
	}
	for _, liar := range []string{"m4", "v3", "n2"} {
		in := wellHeard()
		in.answers[liar] = said(liar, s)
		text, err := json.Marshal(merge(in))
		if err != nil || len(text) > 2<<20 || !utf8.Valid(text) {
			t.Errorf("%s: %d bytes, %v", liar, len(text), err)
		}
	}
}

// FuzzSeen: what a member says it saw does not hide what the others saw of a change, nor when
// the first of them knew.
func FuzzSeen(f *testing.F) {
	f.Add([]byte(`{"lines":[{"ago_seconds":1e9,"term":3,"text":"x"},{"ago_seconds":-1,"term":18446744073709551615,"text":"\u001b[2J"}]}`), false)
	for _, particular := range []bool{false, true} {
		f.Add([]byte(`{"lines":[`+strings.Repeat(`{"ago_seconds":0,"term":3,"text":""},`, 60)+`{"term":1}]}`), particular)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	told := func(node string) bool { return node != "m4" }
	f.Fuzz(func(t *testing.T, b []byte, particular bool) {
		var r seenReply
		if json.Unmarshal(b, &r) != nil {
			return
		}
		honest := slices.Concat(
			seenBy("n1", now, seenReply{[]seenLine{{100, 2, "lease not renewed"}, {90, 3, "is the master"}}}),
			seenBy("v3", now, seenReply{[]seenLine{{99, 2, "waits"}, {95, 3, "gave the term away"}}}))
		all := slices.Concat(honest, seenBy("m4", now, r))
		sortSights(honest)
		sortSights(all)
		want, knew := around(honest, 3, particular, told)
		lines, at := around(all, 3, particular, told)
		if !at.Equal(knew) {
			t.Errorf("known since %v, and not %v", at, knew)
		}
		if got := slices.DeleteFunc(slices.Clone(lines), func(s api.Sight) bool { return s.Node == "m4" }); !slices.Equal(got, want) {
			t.Errorf("%+v became %+v", want, got)
		}
		if _, err := json.Marshal(lines); err != nil {
			t.Error(err)
		}
	})
}

// FuzzAudited: one member's records do not keep the others' from being told.
func FuzzAudited(f *testing.F) {
	f.Add([]byte(`{"records":[{"at":"9999-12-31T23:59:59-23:59","action":"pause","by":"n1"}]}`))
	f.Add([]byte(`{"records":[{"at":"0000-01-01T00:00:00+01:00","term":18446744073709551615,"why":"` + strings.Repeat("<", 5000) + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r auditReply
		if json.Unmarshal(b, &r) != nil {
			return
		}
		out := auditOf("m4", r)
		if _, err := json.Marshal(out); err != nil {
			t.Error(err)
		}
		for _, x := range out {
			if x.Node != "m4" || len(x.Why) > maxSaid {
				t.Errorf("%+v", x)
			}
		}
	})
}

func TestAuditOf(t *testing.T) {
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	r := auditReply{slices.Repeat([]audit.Record{{At: at, Node: "n1", Action: "pause", By: "ann"}}, maxAudit+1)}
	out := auditOf("n2", r)
	if len(out) != maxAudit || out[0] != (api.AuditRecord{At: at.UTC(), Node: "n2", Action: "pause", By: "ann"}) {
		t.Errorf("%d records, the first %+v", len(out), out[0])
	}
}

func TestCut(t *testing.T) {
	for in, want := range map[string]string{"": "", "1234567890": "1234567890", "12345678901": "1234567…", "123456ä8901": "123456…"} {
		if got := cut(in, 10); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if bytes.ContainsRune([]byte(cut(strings.Repeat("ä", 99), 20)), utf8.RuneError) {
		t.Error("a letter was cut in half")
	}
}

// TestBestView: a newer term counts, and one that knows an arbiter.
func TestBestView(t *testing.T) {
	servers := []quorum.Server{{Node: "n1", Voter: true}, {Node: "n2", Voter: true}, {Node: "v3", Voter: true}}
	of := func(term uint64, arbiter string) summary {
		return summary{View: &view{Term: term, Holder: "n1", Servers: servers}, Arbiter: arbiter}
	}
	for _, c := range []struct {
		answers map[string]summary
		term    uint64
		arbiter string
	}{
		{map[string]summary{"n1": of(2, "v3"), "n2": of(3, "v3"), "v3": of(2, "v3"), "m4": {}}, 3, "v3"},
		{map[string]summary{"n1": of(3, ""), "n2": of(3, "v3")}, 3, "v3"},
		{map[string]summary{"n1": of(3, "v3"), "n2": of(3, "")}, 3, "v3"},
		{map[string]summary{"m4": {}}, 0, ""},
		{map[string]summary{"m4": said("m4", of(9, "m4"))}, 0, ""}, // which does not even call itself one of them
	} {
		if v := bestView(c.answers); v.Term != c.term || v.Arbiter != c.arbiter {
			t.Errorf("%+v: %+v", c.answers, v)
		}
	}
}
