package agent

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/lease"
)

// callPaths are all calls that agents take from each other.
var callPaths = []string{pathRenew, pathReport, pathRelease, pathRaftTerm, pathSummary, pathFacts, pathNote, pathOrder, pathProbe, pathSeen, pathWho, pathCheck,
	pathReach, pathAudit, pathHistory, pathAccess, pathIssue, pathAccesses, pathGranted, pathProve, pathTarget, pathCatalog, pathToken, pathTokens, pathAdmit,
	pathRoll, pathEnrol, pathCertify, pathCAKey, pathWord, pathRollState, pathRotation, pathReplica + "stream", pathReplica + "sums", pathReplica + "files"}

// lies are bodies in which a member speaks for another one, or says what cannot be. A
// number is made extreme by hostile.
var lies = []string{
	`{"term":1,"epoch":0,"serving":true,"machine":1,"trouble":"\u001b[2J","trouble_for":-9223372036854775808,"grace":9223372036854775807}`,
	`{"Node":"n1","Machine":1,"Ready":true,"Running":true,"Revision":18446744073709551615,"FreshAge":0,"Priority":9223372036854775807,"Founder":true,"OwnRevision":9}`,
	`{"term":1,"machine":1,"why":"a","to":"n2","automatic":true}`,
	`{"term":1,"text":"x"}`, `{"term":1,"ok":false,"ever":true,"why":"x"}`, `{"term":1,"after":0,"up_to":1}`,
	`{"verb":"pause","by":"ann@n1"}`, `{"verb":"remove","to":"n2","force":true,"by":"ann@n1@n2"}`, `{"verb":"token-create","by":"@","token":{"ttl_seconds":1e300,"id":"AAAAAAAA"}}`,
	`{"revoke":"x","by":"ann@n1"}`, `{"request":{"name":"x","role":"admin","ttl_seconds":-9223372037,"public_key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="},"by":"ann@n1"}`,
	`{"name":"x","serial":"y","arbiter":true}`, `{"kind":"x"}`, `{"kind":"verify","id":18446744073709551615}`, `{"id":"AAAAAAAA"}`,
	`{"token":"AAAAAAAA","node":"n2","key":"AAAA"}`, `{"node":"evil","key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`,
	`{"entries":[{"id":"a"}],"epoch":"x","number":1}`, `{"pad":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}`, `{}`, `null`, `[]`, `"x"`, `{"a":`,
}

// hostile changes a few bytes of a body.
func hostile(r *rand.Rand, body string) []byte {
	b := []byte(body)
	for range r.IntN(4) {
		i := r.IntN(len(b))
		switch r.IntN(4) {
		case 0:
			b[i] = byte(r.IntN(256))
		case 1:
			b = append(b[:i:i], append([]byte(strings.Repeat("9", 1+r.IntN(19))), b[i:]...)...)
		case 2:
			b = append(b[:i:i], b[min(i+1+r.IntN(4), len(b)):]...)
			if len(b) == 0 {
				b = []byte("0")
			}
		case 3:
			b = append(b[:i:i], append([]byte(strings.Repeat("[", 1+r.IntN(200))), b[i:]...)...)
		}
	}
	return b
}

// TestWholeHostileMember: a member without vote and copy, whose certificate is right, says
// anything to anybody on every call. Nothing that was agreed on changes, nobody stops, and
// neither it nor anybody by its word would be the next master.
func TestWholeHostileMember(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	founded(t, "n1 n2 v3 m4", func(t *testing.T, w *world) {
		w.enrolled(4)
		rogue := w.host("m4").agent
		agreed := func() string {
			a := w.host("n2").agent
			st, servers := a.quorum.State(), ""
			if list, err := a.quorum.Servers(); err == nil {
				servers = fmt.Sprint(list)
			}
			b, _ := json.Marshal([]any{st.Term, st.Holder, st.Machine, st.Released, st.Pause, st.Trust, st.Access, len(st.History), servers})
			return string(b)
		}
		before := agreed()
		r := rand.New(rand.NewPCG(seed, 0))
		for range 40 {
			for _, path := range callPaths {
				to := w.hosts[r.IntN(3)]
				body := json.RawMessage(hostile(r, lies[r.IntN(len(lies))]))
				if !json.Valid(body) { // the port would not send it
					body, _ = json.Marshal(string(body))
				}
				err := rogue.port.PostJSON(t.Context(), to.name, path, body, nil)
				if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
					t.Errorf("%q", err)
				}
			}
			for _, h := range w.hosts[:3] { // and at its worst
				rogue.port.PostJSON(t.Context(), h.name, pathReport, lease.Candidate{Node: "m4", Machine: 4, Ready: true, Revision: 1 << 60, Priority: 1 << 30}, nil)
			}
			if j, err := w.host("n1").agent.askArbiter(t.Context()); err == nil && j.To == "m4" {
				t.Fatalf("seed %d: m4, which is no candidate, would follow: %+v", seed, j)
			}
		}
		// Nor is it given what only standbys may have.
		for _, path := range []string{pathReplica + "all", pathReplica + "identity/file"} {
			for who, want := range map[string]bool{"m4": false, "n2": true} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://n1"+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := w.host(who).agent.port.Do("n1", req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if given := resp.StatusCode != http.StatusForbidden; given != want {
					t.Errorf("%s of n1 answers %s with %s", path, who, resp.Status)
				}
			}
		}
		w.ready("n1", 1)
		if now := agreed(); now != before {
			t.Errorf("seed %d:\n%s became\n%s", seed, before, now)
		}
		for _, h := range w.hosts[:3] {
			if _, err := h.agent.Status(t.Context()); err != nil {
				t.Error(err)
			}
		}
		// An order that it may give, as root on every member may, is written down by who carries
		// it out, since it need not do so itself; and so is where it came from.
		if err := rogue.port.PostJSON(t.Context(), w.host("n1").agent.quorum.Leader(), pathOrder, api.Order{Verb: api.VerbPause, By: "ann@m4"}, nil); err != nil {
			t.Fatal(err)
		}
		w.until(10*time.Second, "the order is in the audit", func() bool {
			v, err := w.host("n2").agent.Audit(t.Context())
			has := func(by, from, action, target string) bool {
				return slices.ContainsFunc(v.Records, func(r api.AuditRecord) bool {
					return r.By == by && r.From == from && r.Action == action && r.Target == target && r.Outcome == api.Carried && r.Node != "m4"
				})
			}
			return err == nil && has("ann", "the member m4", "pause", "") && has("an invitation", "", "join", "m4") && has("the founding of the cluster", "", "join", "n1")
		})
		// So is one that a person gives there, and it is told once.
		if _, err := rogue.Do(t.Context(), api.Order{Verb: api.VerbAcknowledge, By: "bob"}); err != nil {
			t.Fatal(err)
		}
		rogue.asked(api.Event{Who: api.Who{Name: "bob", From: "the socket"}, Action: string(api.VerbAcknowledge), Outcome: api.Carried}) // as the API has it
		w.until(10*time.Second, "it is told once", func() bool {
			v, err := w.host("n2").agent.Audit(t.Context())
			told := slices.DeleteFunc(v.Records, func(r api.AuditRecord) bool { return r.Action != string(api.VerbAcknowledge) })
			return err == nil && len(told) == 1 && told[0].Node == "m4" && told[0].From == "the socket"
		})
	})
}

// A length of time that overflows is no length.
func TestAccessLength(t *testing.T) {
	for seconds, ok := range map[int64]bool{60: true, 59: false, -1: false, -9223372037: false, 1 << 62: false, -1 << 63: false, int64(maxAccess / time.Second): true} {
		r := api.AccessRequest{Name: "x", Role: api.Viewer, Seconds: seconds, PublicKey: make([]byte, 32)}
		if err := (&agent{}).checkAccess(r); (err == nil) != ok {
			t.Errorf("%d s: %v", seconds, err)
		}
	}
}
