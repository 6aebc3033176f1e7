package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/agent/peer"
)

func newAccessCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "access",
		Short: "Let people on other hosts ask, or act",
		Long: "Let people on other hosts ask, or act: each gets a file with a key of its own, a\n" +
			"role, and an end. docs/roles.md says what each role may.",
	}
	cmd.AddCommand(newAccessCreateCommand(a), newAccessListCommand(a), newAccessRevokeCommand(a))
	return cmd
}

func newAccessCreateCommand(a *app) *cobra.Command {
	var r api.AccessRequest
	role := string(api.Viewer)
	ttl := days(30 * 24 * time.Hour)
	out := ""
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a file with which NAME can ask from another host",
		Long: "Make a file with which NAME can ask from another host, or act, over the port that\n" +
			"the agents use. The file is a secret. It ends when the cluster's CA is changed.",
		Example: "  sudo relevo access create laptop --role operator --ttl 30d\n  relevo --context laptop.relevo status",
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&role, "role", role, "viewer, operator or admin")
	cmd.Flags().Var(&ttl, "ttl", "how long it lasts: 12h, 30d, 1y")
	cmd.Flags().StringSliceVar(&r.Nodes, "node", nil, "limit it to this `node`; may be given several times")
	cmd.Flags().StringSliceVar(&r.Actions, "action", nil, "limit it to this `action`; may be given several times")
	cmd.Flags().StringVarP(&out, "file", "f", "", "`file` to write (default: NAME.relevo)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r.Name, r.Role, r.Seconds = args[0], api.AccessRole(role), int64(time.Duration(ttl)/time.Second)
		if out == "" {
			out = r.Name + ".relevo"
		}
		if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already: remove it, or choose another with --file", out)
		}
		return asRoot(a.createAccess(cmd.Context(), r, out))
	}
	return cmd
}

func (a *app) createAccess(ctx context.Context, r api.AccessRequest, out string) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	r.PublicKey = pub
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	defer c.Close()
	made, err := c.AccessCreate(ctx, r)
	if err != nil {
		return err
	}
	file := &peer.Context{Cluster: made.Cluster, Name: made.Access.Name, Role: string(made.Access.Role), Expires: made.Access.Expires,
		Addresses: made.Addresses, CA: made.CA, Cert: made.Certificate, Key: der}
	text, err := file.Text()
	if err == nil {
		err = writeNew(out, string(text), 0o600)
	}
	if err != nil {
		// Nobody has the key: the access is of no use to anybody.
		if _, undo := c.AccessRevoke(context.WithoutCancel(ctx), r.Name); undo != nil {
			return fmt.Errorf("write the access: %w; and it could not be taken back (%w): relevo access revoke %s", err, undo, r.Name)
		}
		return fmt.Errorf("write the access: %w", err)
	}
	fmt.Fprintf(a.stdout, "The access of %s is in %s: %s until %s. It is a secret.\n\n  relevo --context %[2]s status\n", clean(made.Access.Name), out, clean(string(made.Access.Role)), made.Access.Expires.Local().Format(time.DateTime))
	return nil
}

func newAccessListCommand(a *app) *cobra.Command {
	return question[api.AccessList]{
		use:   "list",
		short: "Say who was given access",
		ask: func(ctx context.Context, c *api.Client, _ []string) (api.AccessList, error) {
			return c.AccessList(ctx)
		},
		show: func(p *page, l api.AccessList, _ []string) { showAccess(p, l) },
	}.command(a)
}

func showAccess(p *page, l api.AccessList) {
	if len(l.Access) == 0 {
		p.text("Nobody was given access from other hosts.")
		return
	}
	var rows [][]span
	for _, x := range l.Access {
		end := span{text: "in " + human(x.Expires.Sub(p.now))}
		if !p.now.Before(x.Expires) {
			end = span{red, "ended " + p.ago(x.Expires) + " ago"}
		}
		rows = append(rows, []span{{text: x.Name}, {text: string(x.Role)}, end, {text: dash(strings.Join(x.Nodes, ","))}, {text: dash(strings.Join(x.Actions, ","))}, {text: x.By}})
	}
	p.table([]string{"NAME", "ROLE", "ENDS", "ONLY NODES", "ONLY ACTIONS", "GIVEN BY"}, rows)
}

func newAccessRevokeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke NAME",
		Short: "Refuse what was given to NAME, at once",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			return a.tell(c.AccessRevoke(cmd.Context(), args[0]))
		},
	}
}

// days is a flag for lengths of time that also knows d and y.
type days time.Duration

func (d *days) Type() string { return "duration" }

func (d *days) String() string {
	if t := time.Duration(*d); t%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", t/(24*time.Hour))
	}
	return time.Duration(*d).String()
}

// Set reads 90m, 12h, 30d, 1y.
func (d *days) Set(s string) error {
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "y": 365 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.Atoi(number)
			if err != nil || n < 1 || n > 4000 {
				return fmt.Errorf("%q is no length of time: 12h, 30d or 1y are", s)
			}
			*d = days(time.Duration(n) * length)
			return nil
		}
	}
	t, err := time.ParseDuration(s)
	if err != nil || t <= 0 {
		return fmt.Errorf("%q is no length of time: 12h, 30d or 1y are", s)
	}
	*d = days(t)
	return nil
}
