# PURGE by key: all that carries the key goes at once, under whatever URLs it is
# stored. Needs the module xkey (Debian: varnish-modules).
#
#   PURGE / HTTP/1.1
#   xkey-purge: https://en.example.org/wiki/Berlin
#
# The origin sends the keys of what it answers in the header xkey. They are
# separated by spaces or commas, in both headers; so a URI with a comma counts as
# its pieces, and of those a purge takes too much and never too little.
#
# A key that nothing carries is no error: it is purged as well.
#
# Include it before purge.vcl, if both are used, in a VCL that says who may purge.

import xkey;

sub vcl_recv {
    if (req.method == "PURGE" && req.http.xkey-purge) {
        if (client.ip !~ purgers) {
            return (synth(405, "Not allowed"));
        }
        set req.http.x-purged = xkey.purge(req.http.xkey-purge);
        return (synth(200, "Purged " + req.http.x-purged));
    }
}
