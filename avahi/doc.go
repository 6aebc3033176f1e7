// Package avahi announces services by DNS-SD and finds those of others: through
// avahi-daemon over D-Bus where it runs, else by itself.
//
// A [Board] is both sides. What is announced is declared as a whole set
// ([Board.Publish]); the board makes it so, tells what became of each service
// ([Board.Published]), and sends nothing while nothing changes. What is looked for
// is asked for by type ([Board.Browse]); what was found is a bounded snapshot
// ([Board.Found]).
//
//	service.go    what is to be announced, and what can be
//	offers.go     the wanted set → what is to be announced under which name
//	plan.go       what is announced × what is wanted → what is to be done
//	names.go      names: cut, numbered, escaped, made harmless
//	types.go      service types, and what people call them
//	entry.go      what was found, made harmless
//	found.go      all that was found, bounded
//	board.go      the board, and who works for it now
//	bus.go        a connection to D-Bus
//	daemon.go     avahi-daemon: there, running, gone, back
//	groups.go     announcing through avahi-daemon
//	lookup.go     looking through avahi-daemon
//	zeroconf.go   announcing without avahi-daemon
//	rounds.go     looking without avahi-daemon
//	hosts.go      answers for host names without avahi-daemon
//	links.go      the interfaces and addresses that are used without avahi-daemon
//
// Names and texts from the network are hostile: bounded in number and length, and
// without control characters before anybody sees them.
package avahi
