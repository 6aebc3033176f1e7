// Package cloudy speaks to Cloudy, the distribution of Guifi.net's micro-clouds,
// in both ways that it knows.
//
//   - Its Serf ring: every node carries the list of its services in its tag
//     `services`, as base64 of bzip2 of JSON. [Encode] and [Decode] are the codec,
//     [Bridge] is a member of that ring, apart from our own encrypted pool.
//   - Its script avahi-ps: [Standin] has the same commands, so that Cloudy's page
//     and everything else that calls /usr/sbin/avahi-ps works on top of relevo.
//
// The package knows services as a slice of [Entry] and nothing of where they come
// from: [Bridge.Publish] takes those that the community may see, [Bridge.Entries]
// gives those of the others, and [Store] and [Lister] are what the stand-in needs.
//
// What Cloudy writes is hostile until it is read: anybody in the community network
// can enter the ring. What Cloudy reads is fragile: its scripts cut the list of
// everybody at a single space. docs/cloudy.md has the details and their sources.
package cloudy
