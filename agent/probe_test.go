package agent

import (
	"context"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestProbe(t *testing.T) {
	code, asked := 200, 0
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path != "/readyz" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s with %v", r.URL, r.Header)
		}
		w.WriteHeader(code)
		w.Write(make([]byte, 1<<20))
	}))
	defer s.Close()
	target := strings.TrimPrefix(s.URL, "https://")
	dir := t.TempDir()
	good, other := filepath.Join(dir, "good"), filepath.Join(dir, "other")
	if err := os.WriteFile(good, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(other, []byte("nonsense"), 0o600)
	for _, c := range []struct {
		name, ca, why string
		code          int
	}{
		{"a voter without a CA", "", "", 200},
		{"a candidate", good, "", 200},
		{"it asks for credentials: it is there", good, "", 401},
		{"not ready", good, "500", 500},
		{"somebody else has the address", other, "somebody else answers there", 200},
		{"the CA has not been copied yet", filepath.Join(dir, "none"), "", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			code = c.code
			p := newProber(c.ca)
			defer p.close()
			err := p.probe(ctx, target)
			if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
				t.Errorf("%v, want %q", err, c.why)
			}
		})
	}
	t.Run("a connection that died is no failure", func(t *testing.T) {
		code = 200
		p := newProber("")
		defer p.close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for range 3 {
			if err := p.probe(ctx, target); err != nil {
				t.Fatal(err)
			}
			s.CloseClientConnections()
		}
	})
	t.Run("nobody is there", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		p := newProber("")
		defer p.close()
		if err := p.probe(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "Get ") {
			t.Error(err)
		}
	})
}

func TestEndpointOfATag(t *testing.T) {
	for s, ok := range map[string]bool{"10.0.0.1:6443": true, "[fd00::1]:6443": true, "": false, "example.org:1": false, "10.0.0.1:6443/x?y": false,
		"0.0.0.0:1": false, "224.0.0.1:5": false, "10.0.0.1:99999": false, "user@10.0.0.1:1": false, "10.0.0.1:1#": false} {
		if err := validEndpoint(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}
