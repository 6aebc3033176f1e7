package main

import (
	"context"
	"fmt"
	"time"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/systemd"
)

// checkHandOver looks whether logind waits long enough for a master that hands over before
// its host goes down.
func checkHandOver(ctx context.Context, dataDir string) finding {
	patience, err := systemd.Patience(ctx)
	took, known := agent.LastHandOver(dataDir)
	return judgeHandOver(patience, err, took, known)
}

func judgeHandOver(patience time.Duration, err error, took time.Duration, known bool) finding {
	f := finding{Check: "reboot of the master", Result: resultOK}
	switch {
	case err != nil:
		f.What = "logind does not wait for the hand-over, systemd does when it stops relevo.service (45 s)"
	case !known:
		f.What = fmt.Sprintf("logind waits %v for the hand-over, of which none was measured yet", patience)
	case took > patience:
		f.Result = resultWarning
		f.What = fmt.Sprintf("the last hand-over took %v, and logind waits %v: then everything is stopped at once, also what the hand-over needs", took.Round(10*time.Millisecond), patience)
		f.Do = fmt.Sprintf("InhibitDelayMaxSec=%d in /etc/systemd/logind.conf, then `systemctl kill -s HUP systemd-logind`", int((2*took).Seconds())+1)
	default:
		f.What = fmt.Sprintf("the last hand-over took %v, logind waits %v", took.Round(10*time.Millisecond), patience)
	}
	return f
}
