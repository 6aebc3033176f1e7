package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"relevo.dev/relevo/agent"
	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/replica/kine"
	"relevo.dev/relevo/agent/vip"
	"relevo.dev/relevo/systemd"
)

// finding is the outcome of one check of the doctor.
type finding struct {
	Check  string `json:"check" yaml:"check"`
	Result string `json:"result" yaml:"result"` // ok, warning, wrong, unknown
	What   string `json:"what" yaml:"what"`
	Do     string `json:"do,omitempty" yaml:"do,omitempty"`
}

const (
	resultOK      = "ok"
	resultWarning = "warning"
	resultWrong   = "wrong"
	resultUnknown = "unknown"
)

func newDoctorCommand(a *app) *cobra.Command {
	path := config.DefaultPath
	out := formatTable
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what would hurt in the night of a failover",
		Long: "Look for what would hurt in the night of a failover, on this host: whether a hardware\n" +
			"watchdog is really armed, whether the fence and the units' condition are in place,\n" +
			"whether the API's certificate names the virtual IP, space, clock, card, board; and, by\n" +
			"asking the other members, whether they get in at its ports, see it by mDNS, and have\n" +
			"the same time, version and MTU. As root it also asks the network for a second owner of\n" +
			"its addresses.\n\n" +
			"Nothing is changed. Exit code 3 if something is wrong.",
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&path, "config", path, "configuration `file`")
	cmd.Flags().VarP(&out, "output", "o", "table, json or yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(path)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
		defer cancel()
		found := a.examine(ctx, cfg)
		for _, f := range found {
			if f.Result == resultWrong {
				a.code = exitDegraded
			}
		}
		if out != formatTable {
			text, err := encode(out, found)
			if err == nil {
				_, err = fmt.Fprint(a.stdout, text)
			}
			return err
		}
		p := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == ""}
		showFindings(p, found)
		_, err = fmt.Fprint(a.stdout, p.b.String())
		return err
	}
	return cmd
}

func showFindings(p *page, found []finding) {
	for _, f := range found {
		s := span{text: fmt.Sprintf("%-8s", f.Result)}
		switch f.Result {
		case resultWrong:
			s.colour = red
		case resultWarning:
			s.colour = bold
		}
		p.line(s, span{text: fmt.Sprintf("%-20s %s", f.Check, clean(f.What))})
		if f.Do != "" {
			p.text("%29s%s", "", clean(f.Do))
		}
	}
}

// examine runs every check.
func (a *app) examine(ctx context.Context, cfg *config.Config) []finding {
	m := systemd.NewManager()
	defer m.Close()
	others, st := askOthers(ctx, a)
	out := append(others, checkBoard(cfg)...)
	out = append(out, checkNetwork(ctx, cfg, agent.WhoHas, st)...)
	if c := cfg.Candidate; c != nil && c.VIP != nil {
		out = append(out, judgePacketSocket(vip.TryService(ctx), st != nil))
	}
	w, err := m.Watchdog(ctx)
	if err != nil {
		out = append(out, finding{"hardware watchdog", resultUnknown, err.Error(), ""})
	} else {
		out = append(out, judgeWatchdog(w, systemd.WatchdogDevices("/sys"), kernel()))
	}
	out = append(out, checkAgentUnit(ctx, m), checkByHand(ctx, m), checkClock())
	if cfg.Voter {
		out = append(out, checkFence(cfg.Fence.Command))
	}
	if cfg.Candidate == nil || st != nil && st.Removed != nil { // which takes nothing over
		return out
	}
	out = append(out, checkHandOver(ctx, cfg.DataDir))
	out = append(out, checkOwners(ctx, m, cfg)...)
	cp := cfg.Candidate.ControlPlane
	for _, u := range cp.Units {
		out = append(out, checkUnit(ctx, m, u))
	}
	out = append(out, checkControlPlane(ctx, m, cfg)...)
	out = append(out, checkSpace(cp.Datastore.Path))
	if v := cfg.Candidate.VIP; v != nil {
		out = append(out, checkCertificate(ctx, cp.API, v.Address.Addr().String()))
	}
	return out
}

// judgeWatchdog says whether a host that hangs is reset. Limits: the Raspberry Pi's
// bcm2835 watchdog takes 15 s at most; kernels before 6.8 refuse more with EINVAL, and
// systemd goes on without one (systemd #27427).
func judgeWatchdog(w systemd.Watchdog, devices []systemd.WatchdogDevice, kernel [2]int) finding {
	f := finding{Check: "hardware watchdog", Result: resultWarning}
	const set = "RuntimeWatchdogSec=10s in /etc/systemd/system.conf, then `systemctl daemon-reexec`"
	switch {
	case len(devices) == 0 && w.Device == "":
		f.What = "there is none: a host that hangs as a whole stays as it is"
		f.Do = "on a Raspberry Pi: dtparam=watchdog=on in config.txt; elsewhere: load the board's watchdog driver"
		return f
	case w.Runtime == 0:
		for _, d := range devices {
			if d.State == "active" {
				f.Result, f.What = resultOK, fmt.Sprintf("%s (%s) is armed by another program, not by PID 1; %v", d.Name, d.Identity, d.Timeout)
				return f
			}
		}
		f.What, f.Do = "there is one, and nobody uses it", set
		return f
	case !w.Pinged:
		f.Result = resultWrong
		f.What = fmt.Sprintf("PID 1 is told to use one (%v) and does not: another program has the device, or the board cannot wait that long", w.Runtime)
		f.Do = "see `journalctl -b _PID=1 | grep -i watchdog`; " + set
		return f
	}
	f.Result, f.What = resultOK, fmt.Sprintf("armed by PID 1: %s resets a host that hangs for %v", w.Device, w.Runtime)
	for _, d := range devices {
		bcm := strings.Contains(strings.ToLower(d.Identity), "bcm2835")
		if bcm && w.Runtime > 15*time.Second && (kernel[0] < 6 || kernel[0] == 6 && kernel[1] < 8) {
			f.Result = resultWrong
			f.What = fmt.Sprintf("%v is more than this board can wait (15 s), and kernel %d.%d refuses it without a word", w.Runtime, kernel[0], kernel[1])
			f.Do = set
		}
	}
	return f
}

func kernel() (v [2]int) {
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &v[0], &v[1])
	}
	return v
}

func checkAgentUnit(ctx context.Context, m *systemd.Manager) finding {
	f := finding{Check: "relevo.service", Result: resultOK, What: "systemd restarts the agent, watches it, and runs the fence when it ends"}
	p, err := m.Show(ctx, "relevo.service", "LoadState", "UnitFileState", "ExecStopPost", "WatchdogUSec", "Restart")
	switch {
	case err != nil:
		return finding{f.Check, resultUnknown, err.Error(), ""}
	case p["LoadState"] != "loaded":
		return finding{f.Check, resultWrong, "systemd does not have it: " + p["LoadState"], "install the package again"}
	case !strings.Contains(p["ExecStopPost"], "fence") || p["Restart"] != "always" || p["WatchdogUSec"] == "0":
		return finding{f.Check, resultWrong, "a drop-in took the fence, the watchdog or the restart away", "see `systemctl cat relevo.service`"}
	case p["UnitFileState"] != "enabled":
		return finding{f.Check, resultWrong, "it does not start at boot", "systemctl enable relevo.service"}
	}
	return f
}

func checkUnit(ctx context.Context, m *systemd.Manager, unit string) finding {
	p, err := m.Show(ctx, unit, "LoadState", "ExecCondition", "NeedDaemonReload")
	switch {
	case err != nil:
		return finding{unit, resultUnknown, err.Error(), ""}
	case p["LoadState"] != "loaded":
		return finding{unit, resultWrong, "systemd does not have this unit: " + p["LoadState"], "install it: on the night of a failover it is needed here"}
	case !strings.Contains(p["ExecCondition"], "lease held"):
		return finding{unit, resultWrong, "it would start without the lease: the drop-in 50-relevo.conf is not in force", "systemctl restart relevo.service writes it"}
	}
	return finding{unit, resultOK, "starts with the lease only", ""}
}

// checkClock asks the kernel whether something keeps its clock right: certificates
// are judged by it.
func checkClock() finding {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	const unsync = 5 // TIME_ERROR, adjtimex(2)
	switch {
	case err != nil:
		return finding{"clock", resultUnknown, err.Error(), ""}
	case time.Now().Year() < 2026:
		return finding{"clock", resultWrong, "it says " + time.Now().Format(time.DateTime) + ": certificates are not valid yet", "give the board a time server it can reach"}
	case state == unsync:
		return finding{"clock", resultWarning, "nothing keeps it right", "timedatectl set-ntp true"}
	}
	return finding{"clock", resultOK, "kept right", ""}
}

// checkSpace: a takeover keeps the old datastore aside while it puts the copy in place.
func checkSpace(datastore string) finding {
	f := finding{Check: "space", Result: resultOK}
	dir := filepath.Dir(datastore)
	free, _, err := kine.Left(dir)
	if err != nil {
		return finding{f.Check, resultWrong, fmt.Sprintf("the folder of the datastore: %v", err), "make it, as on the master"}
	}
	need := uint64(256 << 20)
	if st, err := os.Stat(datastore); err == nil {
		need += 3 * uint64(st.Size())
	}
	f.What = fmt.Sprintf("%d MB free in %s", free>>20, dir)
	if free < need {
		f.Result, f.What, f.Do = resultWrong, f.What+fmt.Sprintf(", a takeover may need %d MB", need>>20), "make room"
	}
	return f
}

// checkCertificate looks whether clients that come to the virtual IP will believe
// the API server.
func checkCertificate(ctx context.Context, c config.API, vip string) finding {
	f := finding{Check: "API certificate", Result: resultOK}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" {
		return finding{f.Check, resultOK, "the API is not asked over TLS", ""}
	}
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} // what it shows is checked below
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	var op *net.OpError
	if errors.As(err, &op) {
		return finding{f.Check, resultUnknown, "no API server runs here now; on the master this is checked", ""}
	}
	if err != nil {
		return finding{f.Check, resultUnknown, err.Error(), ""}
	}
	defer conn.Close()
	chain := conn.(*tls.Conn).ConnectionState().PeerCertificates
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		return finding{f.Check, resultWrong, err.Error(), "correct candidate.control_plane.api.ca_file"}
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, x := range chain[1:] {
		inter.AddCert(x)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, DNSName: vip}); err != nil {
		return finding{f.Check, resultWrong, err.Error(), "make a serving certificate that names the virtual IP " + vip + " as well"}
	}
	f.What = "names the virtual IP, valid until " + chain[0].NotAfter.Format(time.DateOnly)
	if time.Until(chain[0].NotAfter) < 30*24*time.Hour {
		f.Result, f.Do = resultWarning, "renew it"
	}
	return f
}
