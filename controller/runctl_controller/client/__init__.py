"""A client of the controller: it sends requests and gets replies, like anybody's automation."""
