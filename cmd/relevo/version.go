package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// release is set by the build: -ldflags "-X main.release=1.2.3".
var release string

// version is the release, or what is known of a build without one.
func version() string {
	if release != "" {
		return release
	}
	return "dev"
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which relevo this is",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			commit := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				for _, s := range info.Settings {
					switch {
					case s.Key == "vcs.revision" && len(s.Value) >= 12:
						commit = s.Value[:12] + commit
					case s.Key == "vcs.modified" && s.Value == "true":
						commit += "+"
					}
				}
			}
			if commit != "" {
				commit += ", "
			}
			fmt.Fprintf(a.stdout, "relevo %s (%s%s, %s/%s)\n", version(), commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
