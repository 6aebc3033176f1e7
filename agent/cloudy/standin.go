package cloudy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Standin is avahi-ps as Cloudy's page and scripts call it.
type Standin struct {
	Settings Settings
	Node     string // this host's name
	Store    Store
	Lister   Lister
	// Address finds an interface's address: the named one, or the one with the default
	// route if name is "". nil = [HostAddress].
	Address        func(name string) (device string, addr netip.Addr, err error)
	Stdout, Stderr io.Writer
}

const usage = `avahi-ps, as relevo has it: services of this host for the community network

  avahi-ps publish DESCRIPTION TYPE PORT [KEY=VALUE&KEY=VALUE…]
  avahi-ps unpublish TYPE [PORT]
  avahi-ps search [TYPE] [HOSTNAME]      "." = any
  avahi-ps info ip|cloud|tincdev|communitydev

SEARCH_ONLY=serf search prints JSON, SEARCH_ONLY=avahi lines as of avahi-browse.
`

// Run carries out one command line, without the program's name, and returns its
// exit code: 0, 1 if it failed, 2 if it is wrong.
func (s *Standin) Run(ctx context.Context, args []string) int {
	var err error
	switch command, args := slices.Concat(args, []string{""})[0], args[min(1, len(args)):]; command {
	case "publish":
		err = s.publish(ctx, args)
	case "unpublish":
		err = s.unpublish(ctx, args)
	case "search":
		err = s.search(ctx, args)
	case "info":
		err = s.info(args)
	case "", "help", "-h", "--help":
		fmt.Fprint(s.Stdout, usage)
	default:
		err = errUsage
	}
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(s.Stderr, usage)
		return 2
	case err != nil:
		fmt.Fprintf(s.Stderr, "avahi-ps: %v\n", err)
		return 1
	}
	return 0
}

var errUsage = errors.New("usage")

func (s *Standin) publish(ctx context.Context, args []string) error {
	if len(args) < 3 {
		return errUsage
	}
	e, err := published(args)
	if err == nil {
		err = asRoot(s.Store.Publish(ctx, e))
	}
	if err != nil {
		return fmt.Errorf("publish %s %s: %w", clean(args[1], maxText), clean(args[2], maxText), err)
	}
	fmt.Fprintf(s.Stdout, "published %s, %s on port %d\n", e.Name, bareType(e.Type), e.Port)
	return nil
}

// published is what the arguments DESCRIPTION TYPE PORT [TXT] mean.
func published(args []string) (Entry, error) {
	description := clean(args[0], maxText)
	e := Entry{Name: strings.TrimSpace(cut(description, maxName)), Type: "_" + kind(args[1]) + "._tcp"}
	if description != e.Name {
		e.Description = description
	}
	if e.Name == "" {
		return e, errors.New("a description is needed")
	}
	if n := len(kind(args[1])); n < 1 || n > 15 || args[1] != bareType(args[1]) && args[1] != dnsType(args[1]) {
		return e, errors.New("a type has 1 to 15 letters, digits and hyphens")
	}
	var err error
	if e.Port, err = port(args[2]); err != nil {
		return e, err
	}
	if len(args) < 4 {
		return e, nil
	}
	total := 0
	for p := range strings.SplitSeq(args[3], "&") {
		switch total += len(p) + 1; {
		case p == "":
			continue
		case p[0] == '=' || len(p) > 255 || total > 400: // what DNS-SD allows and what fits into one packet
			return e, fmt.Errorf("attribute %.20q…: key=value of at most 255 bytes is allowed, 400 in all", p)
		case !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl):
			return e, fmt.Errorf("attribute %.20q…: text without control characters is allowed", p)
		}
		e.TXT = append(e.TXT, p)
	}
	return e, nil
}

// kind is a type without what DNS-SD adds or does not allow.
func kind(t string) string {
	return strings.Trim(strings.ReplaceAll(bareType(t), "_", "-"), "-")
}

func port(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 65535 {
		return 0, fmt.Errorf("port %.20q: 1 to 65535 is allowed", text)
	}
	return n, nil
}

// asRoot says what to do where rights are missing.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w; run it as root", err)
	}
	return err
}

func (s *Standin) unpublish(ctx context.Context, args []string) error {
	if len(args) < 1 || kind(args[0]) == "" {
		return errUsage
	}
	n := 0
	if len(args) > 1 && args[1] != "" {
		var err error
		if n, err = port(args[1]); err != nil {
			return fmt.Errorf("unpublish %s: %w", kind(args[0]), err)
		}
	}
	gone, err := s.Store.Unpublish(ctx, kind(args[0]), n)
	if err != nil {
		return fmt.Errorf("unpublish %s: %w", kind(args[0]), asRoot(err))
	}
	fmt.Fprintf(s.Stdout, "unpublished %d\n", gone)
	return nil
}

// info prints what callers put into command lines: one harmless word, or nothing.
func (s *Standin) info(args []string) error {
	if len(args) < 1 {
		return errUsage
	}
	switch args[0] {
	case "ip":
		_, addr, err := s.address()
		if err != nil {
			return fmt.Errorf("find the address in the community network: %w", err)
		}
		fmt.Fprintln(s.Stdout, addr)
	case "communitydev":
		device, _, err := s.address()
		if err != nil {
			device = s.Settings.Device
		}
		fmt.Fprintln(s.Stdout, device)
	case "cloud":
		fmt.Fprintln(s.Stdout, s.Settings.Cloud)
	case "tincdev":
		fmt.Fprintln(s.Stdout, s.Settings.MicroCloud)
	default:
		return errUsage
	}
	return nil
}

// address is this host's in the community network: as configured, else of the
// configured interface. Where none is configured, eth0 is only Cloudy's guess, and
// the default route knows better.
func (s *Standin) address() (string, netip.Addr, error) {
	if s.Settings.PublicIP.IsValid() {
		return s.Settings.Device, s.Settings.PublicIP, nil
	}
	find := s.Address
	if find == nil {
		find = HostAddress
	}
	device, addr, err := find(s.Settings.Device)
	if err != nil && !s.Settings.Chosen {
		if d, a, err := find(""); err == nil {
			return d, a, nil
		}
	}
	return cmp.Or(device, s.Settings.Device), addr, err
}
