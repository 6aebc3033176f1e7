package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/peer"
)

// grants keeps accesses like an agent would; the CA lies in pki.
type grants struct {
	pki string
	all []api.Access
}

func (g *grants) AccessList(context.Context) (api.AccessList, error) {
	return api.AccessList{Access: g.all}, nil
}

func (g *grants) AccessCreate(_ context.Context, r api.AccessRequest) (api.AccessCreated, error) {
	until := now.Add(time.Duration(r.Seconds) * time.Second)
	cert, ca, err := peer.IssueAccess(g.pki, r.Name, r.PublicKey, until)
	if err != nil {
		return api.AccessCreated{}, err
	}
	x := api.Access{Name: r.Name, Role: r.Role, Nodes: r.Nodes, Actions: r.Actions, Expires: until, By: "ann@n1"}
	g.all = append(g.all, x)
	return api.AccessCreated{Access: x, Cluster: "home", CA: ca.Raw, Certificate: cert.Raw, Addresses: []string{"127.0.0.1:1"}}, nil
}

func (g *grants) AccessRevoke(_ context.Context, name string) (api.Done, error) {
	for i, x := range g.all {
		if x.Name == name {
			g.all = append(g.all[:i], g.all[i+1:]...)
			return api.Done{Text: name + " is refused from now on"}, nil
		}
	}
	return api.Done{}, errors.New("there is no access called " + name)
}

func (g *grants) Granted(string, string) (api.Access, error) { return api.Access{}, errors.New("no") }

func audited(context.Context) (api.Audit, error) {
	return api.Audit{Records: []api.AuditRecord{
		{At: now, Node: "n3", Term: 2, By: "laptop", From: "10.77.0.9", Action: "step-down", Target: "n2", Outcome: api.Carried, Why: "new card"},
		{At: now.Add(-time.Hour), Node: "n1", Term: 1, By: "eve\x1b[2J", From: "the socket, uid 1000", Action: "leave", Outcome: api.Denied, Why: "\"leave\" needs the role admin"},
	}, Failed: []string{"n2: it is lost"}}, nil
}

func TestAccess(t *testing.T) {
	dir := t.TempDir()
	pki := filepath.Join(dir, "pki")
	if _, err := peer.Init(pki, filepath.Join(dir, "gossip.key"), "home", "n1"); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(dir, "s")
	s, err := api.Listen(api.Config{Socket: sock, Source: &fake{}, Grants: &grants{pki: pki}, Audit: audited, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()

	file := filepath.Join(dir, "laptop.relevo")
	code, out, errs := relevo(t, nil, "--socket", sock, "access", "create", "laptop", "--role", "operator", "--ttl", "30d", "--action", "pause", "-f", file)
	if code != 0 || !strings.Contains(out, "relevo --context "+file) {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if c, err := peer.LoadContext(file); err != nil || c.Role != "operator" {
		t.Errorf("%+v, %v", c, err)
	}
	if code, _, errs := relevo(t, nil, "--socket", sock, "access", "create", "laptop", "-f", file); code != 1 || !strings.Contains(errs, "is there already") {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := relevo(t, nil, "--socket", sock, "access", "create", "x", "--ttl", "soon"); code != 2 || !strings.Contains(errs, "30d or 1y are") {
		t.Errorf("%d %s", code, errs)
	}
	// A file that cannot be written leaves no access behind.
	if code, _, errs := relevo(t, nil, "--socket", sock, "access", "create", "phone", "-f", filepath.Join(dir, "no", "x")); code != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("%d %s", code, errs)
	}
	_, out, errs = relevo(t, nil, "--socket", sock, "access", "list")
	golden(t, "access", out+errs)
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	_, out, errs = relevo(t, nil, "--socket", sock, "history", "--audit")
	golden(t, "audit", out+errs)
	if code, out, errs := relevo(t, nil, "--socket", sock, "history", "--audit", "-o", "json"); code != 0 || !strings.Contains(out, `"action": "step-down"`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, out, errs := relevo(t, nil, "--socket", sock, "access", "revoke", "laptop"); code != 0 || !strings.Contains(out, "refused from now on") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, _, errs := relevo(t, nil, "--socket", sock, "access", "revoke", "laptop"); code != 1 || !strings.Contains(errs, "no access called laptop") {
		t.Errorf("%d %s", code, errs)
	}
	// The file is used, and says whom it could not reach.
	if code, _, errs := relevo(t, map[string]string{"RELEVO_CONTEXT": file}, "status"); code != 1 || !strings.Contains(errs, "127.0.0.1:1") {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := relevo(t, nil, "--context", filepath.Join(dir, "none"), "status"); code != 1 || !strings.Contains(errs, "the access: ") {
		t.Errorf("%d %s", code, errs)
	}
}
