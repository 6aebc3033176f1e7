package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestCommands(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	held := State{Cluster: "home", Term: 3, Holder: "n1", Ack: 1, History: []Change{
		{Term: 2, Holder: "n2", Reason: "r"}, {Term: 3, Holder: "n1", Previous: "n2", Reason: "r", Notes: []string{"a"}},
	}}
	released := held
	released.Released = true
	paused := held
	paused.Pause = Pause{Phase: Paused, Epoch: 4, By: "ann"}
	resuming := paused
	resuming.Pause = Pause{Phase: Resuming, Epoch: 5, By: "ann"}
	full := held
	full.History = []Change{{Term: 3, Holder: "n1", Notes: make([]string, maxNotes)}}

	for _, tc := range []struct {
		name   string
		state  State
		cmd    Command
		refuse string // part of the reason; "" = accepted
		check  func(State) bool
	}{
		{"first grant", State{Cluster: "home"}, Command{Op: OpGrant, Term: 1, Holder: "n1", Reason: "adopted", At: at}, "",
			func(s State) bool { return s.Term == 1 && s.Holder == "n1" && s.History[0].At.Equal(at) }},
		{"next grant", held, Command{Op: OpGrant, Term: 4, Holder: "n2", Automatic: true}, "",
			func(s State) bool {
				h := s.History[2]
				return s.Term == 4 && s.Holder == "n2" && h.Previous == "n1" && h.Automatic
			}},
		{"grant ends the release", released, Command{Op: OpGrant, Term: 4, Holder: "n1"}, "", func(s State) bool { return !s.Released }},
		{"grant of the same term", held, Command{Op: OpGrant, Term: 3, Holder: "n2"}, "the next is 4", nil},
		{"grant that skips", held, Command{Op: OpGrant, Term: 5, Holder: "n2"}, "the next is 4", nil},
		{"grant to nobody", held, Command{Op: OpGrant, Term: 4}, "holder is empty", nil},
		{"automatic grant in a pause", paused, Command{Op: OpGrant, Term: 4, Holder: "n2", Automatic: true}, "paused (by ann)", nil},
		{"a person's grant in a pause", paused, Command{Op: OpGrant, Term: 4, Holder: "n2"}, "paused", nil},
		{"resume, answered", resuming, Resumed(5), "", func(s State) bool { return s.Pause.Phase == Running && s.Pause.Epoch == 6 }},
		{"resume, an older answer", resuming, Resumed(4), "not resuming", nil},
		{"grant while resuming", resuming, Command{Op: OpGrant, Term: 4, Holder: "n2"}, "resuming", nil},
		{"resume by force", resuming, Command{Op: OpPause, Force: true}, "", func(s State) bool { return s.Pause.Phase == Running }},
		{"in sync", paused, InSync(3, []string{"n1", "n2"}), "", func(s State) bool { return s.Served == 3 && len(s.InSync) == 2 }},
		{"in sync of an older term", paused, InSync(2, []string{"n1"}), "does not serve", nil},
		{"grant, long reason", held, Command{Op: OpGrant, Term: 4, Holder: "n2", Reason: strings.Repeat("x", maxText+1)}, "at most", nil},
		{"grant, escape codes", held, Command{Op: OpGrant, Term: 4, Holder: "n2", Reason: "\x1b[31m"}, "control character", nil},

		{"release", held, Command{Op: OpRelease, Term: 3, Holder: "n1"}, "", func(s State) bool { return s.Released && s.Holder == "n1" && s.Term == 3 }},
		{"release by another", held, Command{Op: OpRelease, Term: 3, Holder: "n2"}, "held by n1", nil},
		{"release of an old term", held, Command{Op: OpRelease, Term: 2, Holder: "n1"}, "term 3 is held by n1", nil},
		{"release twice", released, Command{Op: OpRelease, Term: 3, Holder: "n1"}, "already", nil},

		{"pause", held, Command{Op: OpPause, On: true, By: "ann", Why: "new switch"}, "",
			func(s State) bool { return s.Pause.Phase == Paused && s.Pause.Epoch == 1 && s.Pause.By == "ann" }},
		{"pause twice", paused, Command{Op: OpPause, On: true, By: "bob"}, "paused already (by ann)", nil},
		{"resume", paused, Command{Op: OpPause, By: "bob"}, "", func(s State) bool { return s.Pause.Phase == Resuming && s.Pause.Epoch == 5 }},
		{"resume what runs", held, Command{Op: OpPause}, "not paused", nil},

		{"acknowledge", held, Command{Op: OpAcknowledge, Term: 3}, "", func(s State) bool { return s.Ack == 3 }},
		{"acknowledge again", held, Command{Op: OpAcknowledge, Term: 1}, "", func(s State) bool { return s.Ack == 1 }},
		{"acknowledge the future", held, Command{Op: OpAcknowledge, Term: 4}, "has not been yet", nil},
		{"acknowledge backwards", held, Command{Op: OpAcknowledge, Term: 0}, "already", nil},

		{"note", held, Command{Op: OpNote, Term: 3, Text: "promoted in 3.2 s"}, "",
			func(s State) bool {
				return len(s.History[1].Notes) == 2 && s.History[1].Notes[1] == "promoted in 3.2 s"
			}},
		{"note on what is forgotten", held, Command{Op: OpNote, Term: 1, Text: "x"}, "not in the history", nil},
		{"note without text", held, Command{Op: OpNote, Term: 3}, "text is empty", nil},
		{"note too many", full, Command{Op: OpNote, Term: 3, Text: "x"}, "16 notes already", nil},
		{"unknown", held, Command{Op: "split"}, "does not know", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before, _ := json.Marshal(tc.state)
			next, err := tc.state.apply(tc.cmd)
			if after, _ := json.Marshal(tc.state); !bytes.Equal(before, after) {
				t.Errorf("the old state was written to:\n%s\n%s", before, after)
			}
			if tc.refuse != "" {
				var r *Refused
				if !errors.As(err, &r) || !strings.Contains(err.Error(), tc.refuse) || r.Op != tc.cmd.Op {
					t.Errorf("got %v, want a refusal with %q", err, tc.refuse)
				}
				if after, _ := json.Marshal(next); !bytes.Equal(before, after) {
					t.Error("a refused command changed the state")
				}
				return
			}
			if err != nil || !tc.check(next) {
				t.Errorf("%v, %+v", err, next)
			}
			if err := next.check(); err != nil {
				t.Errorf("what came out cannot be restored: %v", err)
			}
		})
	}
}

func TestHistoryIsBounded(t *testing.T) {
	s := State{Cluster: "home"}
	for term := uint64(1); term <= 3*maxHistory; term++ {
		var err error
		if s, err = s.apply(Command{Op: OpGrant, Term: term, Holder: "n1"}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.History) != maxHistory || s.History[maxHistory-1].Term != 3*maxHistory {
		t.Errorf("%d changes, newest %d", len(s.History), s.History[len(s.History)-1].Term)
	}
}

func TestDecode(t *testing.T) {
	for name, tc := range map[string]struct {
		raw   string
		newer bool
		ok    bool
	}{
		"good":          {raw: `{"v":1,"op":"grant","term":1,"holder":"n1"}`, ok: true},
		"newer version": {raw: `{"v":2,"op":"grant","term":1}`, newer: true},
		"unknown op":    {raw: `{"v":1,"op":"split"}`, newer: true},
		"unknown field": {raw: `{"v":1,"op":"grant","term":1,"weight":3}`, newer: true},
		"other type":    {raw: `{"v":1,"op":"grant","term":"one"}`, newer: true},
		"no version":    {raw: `{"op":"grant"}`},
		"no JSON":       {raw: `grant 1`},
		"two values":    {raw: `{"v":1,"op":"pause"} {"v":1,"op":"pause"}`},
		"empty":         {},
		"too long":      {raw: `{"v":1,"op":"` + strings.Repeat("x", maxCommand) + `"}`},
	} {
		_, err := decode([]byte(tc.raw))
		if (err == nil) != tc.ok || errors.Is(err, ErrNewer) != tc.newer {
			t.Errorf("%s: %v, want ok %v, newer %v", name, err, tc.ok, tc.newer)
		}
	}
}

// The largest command and the largest state fit into the bounds of their readers.
func TestBoundsFit(t *testing.T) {
	worst := strings.Repeat("\"", maxText)
	c := Command{Op: OpGrant, Term: 1, Holder: strings.Repeat("n", maxName), Reason: worst, By: strings.Repeat("\"", maxName), Why: worst, Text: worst, At: time.Now()}
	for range maxNotes {
		c.Notes = append(c.Notes, strings.Repeat("<", maxText)) // six bytes each in JSON
	}
	raw, err := c.encode()
	if err != nil {
		t.Fatal(err)
	}
	s := State{Cluster: "home"}
	for term := uint64(1); term <= maxHistory; term++ {
		d, err := decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		d.Term = term
		if s, err = s.apply(d); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	if err := json.NewEncoder(&buf).Encode(snapshot{V: 1, State: s}); err != nil {
		t.Fatal(err)
	}
	if _, err := readSnapshot(&buf); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotRefused(t *testing.T) {
	for name, raw := range map[string]string{
		"empty":          ``,
		"no JSON":        `hello`,
		"newer":          `{"v":2,"state":{"cluster":"home"}}`,
		"unknown field":  `{"v":1,"state":{"cluster":"home","x":1}}`,
		"other cluster":  `{"v":1,"state":{"cluster":"away","term":0,"holder":""}}`,
		"term, no name":  `{"v":1,"state":{"cluster":"home","term":3,"holder":""}}`,
		"history ahead":  `{"v":1,"state":{"cluster":"home","term":1,"holder":"a","history":[{"term":2,"holder":"a"}]}}`,
		"history mixed":  `{"v":1,"state":{"cluster":"home","term":2,"holder":"a","history":[{"term":2,"holder":"a"},{"term":1,"holder":"a"}]}}`,
		"ack ahead":      `{"v":1,"state":{"cluster":"home","term":1,"holder":"a","ack":2}}`,
		"too many terms": `{"v":1,"state":{"cluster":"home","term":99,"holder":"a","history":[` + strings.Repeat(`{"term":1,"holder":"a"},`, maxHistory) + `{"term":2,"holder":"a"}]}}`,
		"too long":       `{"v":1,` + strings.Repeat(" ", maxSnapshot) + `"state":{"cluster":"home"}}`,
	} {
		f := newFSM("home", func() {})
		if err := f.Restore(io.NopCloser(strings.NewReader(raw))); err == nil {
			t.Errorf("%s: was accepted", name)
		} else if f.stopped() == nil {
			t.Errorf("%s: the state machine goes on", name)
		}
		if _, err := f.Snapshot(); err == nil {
			t.Errorf("%s: a stopped state machine gave a snapshot", name)
		}
		if err, _ := f.Apply(&raft.Log{Data: []byte(`{"v":1,"op":"pause","on":true}`)}).(error); err == nil {
			t.Errorf("%s: a stopped state machine went on", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range []Command{
		{Op: OpGrant, Term: 1, Holder: "n1", Reason: "x", Automatic: true, Notes: []string{"a"}},
		{Op: OpRelease, Term: 1, Holder: "n1"}, {Op: OpPause, On: true, By: "ann"}, {Op: OpAcknowledge, Term: 1}, {Op: OpNote, Term: 1, Text: "x"},
	} {
		raw, err := c.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"v":9,"op":"grant"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := decode(raw)
		if err != nil {
			return
		}
		s := State{Cluster: "home", Term: 1, Holder: "n1", History: []Change{{Term: 1, Holder: "n1"}}}
		next, err := s.apply(c)
		if err != nil {
			return
		}
		if err := next.check(); err != nil {
			t.Errorf("%s leads to a state that cannot be restored: %v", raw, err)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	s, _ := State{Cluster: "home"}.apply(Command{Op: OpGrant, Term: 1, Holder: "n1", Notes: []string{"a"}})
	raw, err := json.Marshal(snapshot{V: 1, State: s})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := readSnapshot(bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := json.Marshal(snapshot{V: 1, State: s})
		if err != nil {
			t.Fatal(err)
		}
		back, err := readSnapshot(bytes.NewReader(again))
		if err != nil || fmt.Sprint(back) != fmt.Sprint(s) {
			t.Errorf("%v: %+v became %+v", err, s, back)
		}
	})
}
