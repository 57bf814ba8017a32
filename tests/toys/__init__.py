"""Networks, profiles, servers and stores that tests of several folders share."""
