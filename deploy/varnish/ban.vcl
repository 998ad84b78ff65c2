# BAN by key, for a Varnish without the module xkey: all that carries the key is
# not served any more, and removed when it is come across.
#
#   BAN / HTTP/1.1
#   X-Cache-Tags: (?:^|[\s,])https://en\.example\.org/wiki/Berlin(?:$|[\s,])
#
# The request has a regular expression, without spaces; the origin sends the keys of
# what it answers in a header of the same name, separated by spaces or commas. A ban is
# compared with each object, so a cache with many objects and many bans a second is
# better off with xkey.vcl.
#
# Include it in a VCL that says who may purge; README.md shows one.

sub vcl_recv {
    if (req.method == "BAN") {
        if (client.ip !~ purgers) {
            return (synth(405, "Not allowed"));
        }
        # Without a value, or with more than one word, it would be another ban.
        if (req.http.X-Cache-Tags !~ "^[^ \t]+$") {
            return (synth(400, "One expression in X-Cache-Tags is needed"));
        }
        ban("obj.http.X-Cache-Tags ~ " + req.http.X-Cache-Tags);
        return (synth(200, "Banned"));
    }
}
