"""/auth/v1: as much of Supabase Auth as it takes to sign the hub's users in.

An endpoint that is here answers as hosted Auth does; any other answers 501 and names the feature.
"""
