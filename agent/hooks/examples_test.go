package hooks

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The examples do what they say, with stand-ins for mail and curl, and with a folder for
// the LED.
func TestExamples(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"mail", "curl"} {
		put(name, "#!/bin/sh\n{ echo \"$0 $*\"; cat; } >>"+dir+"/out\n")
	}
	put("brightness", "9\n")
	at := time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC)
	hot := Event{Event: Condition, At: at, Cluster: "home", Host: "n1", Node: "n1", Subject: "n1: too hot", Condition: "Hot", Status: "true", Advice: "give it air", Term: 7}
	cool, other, dull := hot, hot, hot
	cool.Status, cool.Subject, cool.Advice = "false", "n1: no more Hot", ""
	other.Node, other.Condition = "n2", "DiskFull"
	low := hot
	low.Condition = "UnderVoltage"
	over := low
	over.Status = "false"
	lost := Event{Event: Member, At: at, Cluster: "home", Host: "n1", Node: "n3", Subject: "n3 is failed", Status: "failed", Was: "alive", Skipped: 2}
	dull = Event{Event: Role, At: at, Cluster: "home", Host: "n1", Node: "n3", Role: "standby", Was: "master"}
	led := func(want string) []string { return []string{want} }
	for _, c := range []struct {
		hook string
		e    Event
		want []string // parts of what came out; nil = nothing
	}{
		{"mail", hot, []string{"mail -s [home] n1: too hot root\n", "n1: too hot\n", "What to do: give it air\n", "2026-11-25T01:02:03Z, as seen from n1 in term 7"}},
		{"mail", lost, []string{"[home] n3 is failed root", "2 events before this one were not told"}},
		{"mail", dull, nil},
		{"ntfy", hot, []string{"Title: relevo home", "Priority: high", "Tags: warning", "https://ntfy.sh/CHANGE-ME\n", "n1: too hot\ngive it air\n"}},
		{"ntfy", cool, []string{"Priority: default", "n1: no more Hot\n"}},
		{"ntfy", dull, nil},
		{"led", hot, led("1\n")},
		{"led", other, led("9\n")}, // is not written
		{"led", low, led("1\n")},
		{"led", cool, led("1\n")}, // one is left
		{"led", over, led("0\n")},
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "../../packaging/examples/hooks/"+c.hook)
		cmd.Env = append(c.e.env(), "PATH="+dir+":/usr/bin:/bin", "LED="+dir, "STATE="+dir+"/state")
		cmd.Stdin = bytes.NewReader([]byte("{}"))
		text, err := cmd.CombinedOutput()
		if err != nil || len(text) > 0 {
			t.Errorf("%s: %v: %s", c.hook, err, text)
		}
		if c.hook != "led" {
			text, _ = os.ReadFile(filepath.Join(dir, "out"))
			os.Remove(filepath.Join(dir, "out"))
		} else if text, _ = os.ReadFile(filepath.Join(dir, "brightness")); c.want[0] != "9\n" {
			put("brightness", "9\n")
		}
		if c.want == nil && len(text) > 0 {
			t.Errorf("%s is told of %+v: %s", c.hook, c.e, text)
		}
		for _, w := range c.want {
			if !strings.Contains(string(text), w) {
				t.Errorf("%s: %q lacks %q", c.hook, text, w)
			}
		}
	}
}
