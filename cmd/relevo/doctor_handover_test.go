package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestJudgeHandOver(t *testing.T) {
	for _, tt := range []struct {
		patience time.Duration
		err      error
		took     time.Duration
		known    bool
		result   string
		says     string
	}{
		{5 * time.Second, nil, 0, false, resultOK, "none was measured"},
		{5 * time.Second, nil, 1200 * time.Millisecond, true, resultOK, "took 1.2s"},
		{5 * time.Second, nil, 7 * time.Second, true, resultWarning, "InhibitDelayMaxSec=15"},
		{0, errors.New("no logind"), time.Minute, true, resultOK, "systemd does"},
	} {
		f := judgeHandOver(tt.patience, tt.err, tt.took, tt.known)
		if f.Result != tt.result || !strings.Contains(f.What+f.Do, tt.says) {
			t.Errorf("%+v: %+v", tt, f)
		}
	}
}
