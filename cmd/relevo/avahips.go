package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"relevo.dev/relevo/agent/cloudy"
	"relevo.dev/relevo/agent/config"
)

// avahiPS is the name under which this program is Cloudy's avahi-ps: the package
// relevo-cloudy makes a link of that name.
const avahiPS = "avahi-ps"

// calledAs says whether argv0 is name, whatever the folder.
func calledAs(argv0, name string) bool { return filepath.Base(argv0) == name }

// runAvahiPS carries out a command line of avahi-ps. root is where /etc is; "" = /.
func runAvahiPS(ctx context.Context, args []string, a *app, root string) int {
	host, err := os.Hostname()
	if err != nil {
		fmt.Fprintf(a.stderr, "avahi-ps: ask for this host's name: %v\n", err)
		return exitError
	}
	host, _, _ = strings.Cut(host, ".")
	store := cloudy.FileStore{Dir: filepath.Join("/", root, cloudy.DefaultServicesDir)}
	socket := filepath.Join("/", root, cmp.Or(a.env("RELEVO_SOCKET"), config.DefaultSocket))
	s := cloudy.Standin{
		Settings: cloudy.ReadSettings(root, a.env),
		Node:     host,
		Store:    store,
		Lister:   agentLister{socket, store},
		Stdout:   a.stdout,
		Stderr:   a.stderr,
	}
	code := s.Run(ctx, args)
	// Last, because Cloudy's page takes the first line for the answer.
	for _, p := range s.Settings.Problems {
		fmt.Fprintf(a.stderr, "avahi-ps: %s\n", p)
	}
	return code
}
