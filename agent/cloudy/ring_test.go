package cloudy

import (
	"log/slog"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestRealSockets: a plain Serf and the bridge on two addresses of this machine; the
// tag that arrives is read by Cloudy's own pipeline.
func TestRealSockets(t *testing.T) {
	const port = 27950
	c := startNode(t, "c", "127.0.0.31", port, nil, map[string]string{tagName: tagOf(`[{"s":"owp","d":"Panel","p":"3000"}]`), "extraInfo": "x"}, nil)
	defer c.stop()
	b, err := NewBridge(BridgeConfig{Node: "us", BindAddr: "127.0.0.32", Port: port, Join: []string{"127.0.0.31:27950"}, Here: here, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.Publish([]Entry{{Name: "shop", Type: "_http._tcp", Port: 30080}})
	defer lab{t: t}.enter(b)()
	limit := time.After(20 * time.Second)
	for len(b.Entries()) == 0 || c.tagsOf("us") == nil { // joining exchanges everything both ways
		select {
		case <-b.Changes():
		case <-limit:
			t.Fatalf("nothing happens: %+v", b.Status())
		}
	}
	for _, p := range []string{"sh", "base64", "bunzip2"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(p, "is not here")
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "base64 -d - | bunzip2 -")
	cmd.Stdin = strings.NewReader(c.tagsOf("us")[tagName])
	out, err := cmd.Output()
	if want := `[{"s":"http","d":"shop","m":"pi1.guifi.local","i":"10.139.40.21","p":"30080","e":"home","t":""}]`; err != nil || string(out) != want {
		t.Errorf("%s, %v", out, err)
	}
}
