package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/vip"
)

// newPacketSocketCommand is what relevo-packet.socket starts for each connection, which is
// its standard input.
func newPacketSocketCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "packet-socket", Hidden: true, GroupID: "host", Args: cobra.NoArgs, Short: "Hand a packet socket to the agent; systemd starts it",
		RunE: func(*cobra.Command, []string) error {
			c, err := net.FileConn(a.stdin)
			if err == nil {
				defer c.Close()
				if u, ok := c.(*net.UnixConn); ok {
					return vip.Give(u)
				}
				err = errors.New("it is no unix socket")
			}
			return fmt.Errorf("only relevo-packet.socket starts this, with a connection as standard input: %w", err)
		}}
}
