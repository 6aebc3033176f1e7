// Package catalog is the list of what the cluster offers, the same on every member.
//
// Each member owns its entries: its sources declare them ([Catalog.Set]), one source
// an origin, without knowing of each other. A short tag, gossiped with everything
// else that members say of themselves, names the present list ([Catalog.Tag]); who
// sees another tag than that of the list it has fetches the list from its owner
// ([Catalog.Run]). Nothing is sent while nothing changes, but for one question of
// some hundred bytes every few minutes, which finds what gossip may have lost.
//
//	entry.go     what an entry is, and what is left of one from the network
//	catalog.go   this member's own entries, and the view of all
//	wire.go      the tag, the list as it is sent, and how much of one is taken
//	exchange.go  who is asked when
//
// What members say is bounded in number and size before anybody keeps it: a member is
// trusted to be who it is, and not to be sane.
package catalog
