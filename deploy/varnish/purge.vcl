# PURGE of one URL: all that is stored under it goes, whatever it varies by.
#
#   PURGE /wiki/Berlin HTTP/1.1
#   Host: en.example.org
#
# Include it in a VCL that says who may purge; README.md shows one.

sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(405, "Not allowed"));
        }
        return (purge);
    }
}
